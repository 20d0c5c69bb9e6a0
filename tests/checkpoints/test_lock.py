"""One process per run folder: the second is refused, a killed one's lock is free."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from difftori.checkpoints.lock import RunLockedError, holder_of, run_lock

SRC = Path(__file__).parents[2] / "src"
HOLD = """
import os, sys
from pathlib import Path
from difftori.checkpoints.lock import run_lock
with run_lock(Path(sys.argv[1])):
    parent = os.getpid()
    if "fork" in sys.argv:
        os.fork()
    if "fork" not in sys.argv or os.getpid() != parent:
        print(os.getpid(), flush=True)
    sys.stdin.readline()
"""


def hold(folder: Path, *options: str) -> tuple[subprocess.Popen[str], int]:
    """A process that has the lock until a line comes in, and the pid that it tells."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), *options],
        env={**os.environ, "PYTHONPATH": str(SRC)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    return process, int(process.stdout.readline())


def test_the_second_is_refused_by_name_and_a_killed_one_leaves_no_lock(tmp_path: Path) -> None:
    assert holder_of(tmp_path) is None
    process, pid = hold(tmp_path)
    who = f"{tmp_path} is in use by process {pid} on {socket.gethostname()}, started 20"
    with pytest.raises(RunLockedError, match=who), run_lock(tmp_path):
        pass
    assert (holder_of(tmp_path) or {})["pid"] == pid
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert json.loads((tmp_path / ".lock.json").read_text())["pid"] == pid
    assert holder_of(tmp_path) is None
    with run_lock(tmp_path):
        assert (holder_of(tmp_path) or {})["pid"] == os.getpid()
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_forked_child_does_not_keep_the_lock_of_its_killed_parent(tmp_path: Path) -> None:
    parent, child = hold(tmp_path, "fork")
    assert holder_of(tmp_path) is not None
    parent.kill()
    parent.wait()
    os.kill(child, 0)  # lives, and waits
    with run_lock(tmp_path):
        pass
    assert parent.stdin
    parent.stdin.close()


def test_a_folder_that_became_read_only_does_not_stop_who_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, **kwargs: object) -> None:
        raise OSError(30, "Read-only file system")

    with run_lock(tmp_path):
        monkeypatch.setattr(Path, "unlink", refuse)


def test_one_who_looks_on_keeps_no_run_from_beginning_and_changes_nothing(tmp_path: Path) -> None:
    with run_lock(tmp_path):
        (tmp_path / ".lock.json").write_bytes(b"\xff{")
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        assert (holder_of(tmp_path) or {})["pid"] == "?"  # somebody that cannot be named
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert holder_of(tmp_path) is None
    with run_lock(tmp_path):
        pass
