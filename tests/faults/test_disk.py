"""A disk that is full for a while: training goes on, says what it needs, and catches up."""

import os
import re
import resource
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from processes import start, train

from difftori.training.start import FAILED_EXIT_CODE
from runs import fingerprint, records, run_folder

DISK_BYTES = 4 << 20
FILE_LIMIT = 20_000
"""bytes; a debug checkpoint is larger, what the run prints is not"""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system that is soon full."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip(f"mounting is not permitted: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> None:
    """Take all the space that is left."""
    with (folder / "filler").open("ab", buffering=0) as file:
        for size in (1 << 16, 1):
            with suppress(OSError):
                while True:
                    file.write(bytes(size))
    assert os.statvfs(folder).f_bavail == 0


def at_updates(actions: dict[int, Callable[[], Any]]) -> None:
    """Call each action before the update of its number, of this process's count from 1."""
    from difftori.learning.learner import Learner

    update, count = Learner.update, 0

    def counted(self: Learner, batch: Any, step: int) -> Any:
        nonlocal count
        count += 1
        if count in actions:
            actions[count]()
        return update(self, batch, step)

    Learner.update = counted  # type: ignore[method-assign]


def train_on_a_full_disk(folder: Path, full: int, free: int | None, killed: int | None) -> int:
    """``full``, ``free``, ``killed``: the updates before which that happens."""
    actions: dict[int, Callable[[], Any]] = {full: lambda: fill(folder)}
    if free is not None:
        actions[free] = (folder / "filler").unlink
    if killed is not None:
        actions[killed] = lambda: os.kill(os.getpid(), signal.SIGKILL)
    at_updates(actions)
    return train(folder)


def assert_said_how_much_is_needed(err: str) -> None:
    message = r"cannot write .*.safetensors: No space.* \(needs ([\d,]+) bytes"
    found = re.findall(message, err)
    assert found, err
    assert all(int(needed.replace(",", "")) > 500 for needed in found)
    assert "training goes on" in err
    assert "Traceback" not in err


def test_a_disk_that_is_full_for_a_while_changes_nothing(
    tmp_path: Path, small_disk: Path, finished_run: Path
) -> None:
    child = start(train_on_a_full_disk, small_disk, 10, 40, None, log=tmp_path / "log")
    assert child.wait() == 0, child.err
    assert_said_how_much_is_needed(child.err)
    assert child.err.count("cannot write") > 2, "it was not tried again"
    folder = run_folder(small_disk)
    assert fingerprint(folder) == fingerprint(finished_run)
    assert [r["env_step"] for r in records(folder, "train")] == [128, 256, 384, 512]


def train_with_a_file_limit(log_dir: Path, full: int, free: int | None) -> int:
    def limit(size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    actions: dict[int, Callable[[], Any]] = {full: lambda: limit(FILE_LIMIT)}
    if free is not None:
        actions[free] = lambda: limit(resource.RLIM_INFINITY)
    at_updates(actions)
    return train(log_dir)


def test_a_limit_on_the_size_of_files_for_a_while_changes_nothing(
    tmp_path: Path, finished_run: Path
) -> None:
    child = start(train_with_a_file_limit, tmp_path, 10, 40, log=tmp_path / "log")
    assert child.wait() == 0, child.err
    assert re.search(r"cannot write .*: File too large \(needs [\d,]+ bytes\)", child.err)
    assert fingerprint(run_folder(tmp_path)) == fingerprint(finished_run)


def test_a_disk_that_is_full_to_the_end_is_an_error_in_one_line(
    tmp_path: Path, small_disk: Path
) -> None:
    child = start(train_on_a_full_disk, small_disk, 10, None, None, log=tmp_path / "log")
    assert child.wait() == FAILED_EXIT_CODE
    assert "Traceback" not in child.err
    assert "done" not in child.out


def test_a_run_is_resumed_on_a_full_disk(
    tmp_path: Path, small_disk: Path, finished_run: Path
) -> None:
    child = start(train_on_a_full_disk, small_disk, 10, None, 12, log=tmp_path / "log")
    assert child.wait() == -signal.SIGKILL
    child = start(train_on_a_full_disk, small_disk, 1, 20, None, log=tmp_path / "again")
    assert child.wait() == 0, child.err
    assert fingerprint(run_folder(small_disk)) == fingerprint(finished_run)
