"""A disk that is full for a while: training goes on, says what it needs, and catches up."""

import os
import re
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from processes import start, train

from difftori.process import FAILED_EXIT_CODE
from runs import fingerprint, records, run_folder

FILE_LIMIT = 20_000
"""bytes; a larger write is cut short, as on a full disk; a debug checkpoint is larger, and what
the run prints is not"""


def limit_files(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


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


def train_on_a_full_disk(log_dir: Path, full: int, free: int | None, killed: int | None) -> int:
    """``full``, ``free``, ``killed``: the updates before which that happens."""
    actions: dict[int, Callable[[], Any]] = {full: lambda: limit_files(FILE_LIMIT)}
    if free is not None:
        actions[free] = lambda: limit_files(resource.RLIM_INFINITY)
    if killed is not None:
        actions[killed] = lambda: os.kill(os.getpid(), signal.SIGKILL)
    at_updates(actions)
    return train(log_dir)


def test_a_disk_that_is_full_for_a_while_changes_nothing(
    tmp_path: Path, finished_run: Path
) -> None:
    child = start(train_on_a_full_disk, tmp_path, 10, 40, None, log=tmp_path / "log")
    assert child.wait() == 0, child.err
    said = re.findall(r"cannot write .*.safetensors: File too large \(needs ([\d,]+)", child.err)
    assert len(said) > 1, f"it was not tried again:\n{child.err}"
    assert all(int(needed.replace(",", "")) > FILE_LIMIT for needed in said)
    assert "training goes on" in child.err
    folder = run_folder(tmp_path)
    assert fingerprint(folder) == fingerprint(finished_run)
    assert [r["env_step"] for r in records(folder, "train")] == [128, 256, 384, 512]


def test_a_disk_that_is_full_to_the_end_is_an_error_in_one_line(tmp_path: Path) -> None:
    child = start(train_on_a_full_disk, tmp_path, 10, None, None, log=tmp_path / "log")
    assert child.wait() == FAILED_EXIT_CODE
    assert "Traceback" not in child.err
    assert "done" not in child.out


def test_a_run_is_resumed_on_a_full_disk(tmp_path: Path, finished_run: Path) -> None:
    child = start(train_on_a_full_disk, tmp_path, 10, None, 12, log=tmp_path / "log")
    assert child.wait() == -signal.SIGKILL
    child = start(train_on_a_full_disk, tmp_path, 1, 20, None, log=tmp_path / "again")
    assert child.wait() == 0, child.err
    assert fingerprint(run_folder(tmp_path)) == fingerprint(finished_run)
