"""One process per run folder: the second is refused, a killed one's lock is free."""

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from difftori.checkpoints.lock import RunLock, RunLockedError

SRC = Path(__file__).parents[2] / "src"
HOLD = """
import os, sys, time
from pathlib import Path
from difftori.checkpoints.lock import RunLock, RunLockedError
try:
    with RunLock(Path(sys.argv[1])):
        parent = os.getpid()
        if "fork" in sys.argv:
            os.fork()
        if "fork" not in sys.argv or os.getpid() != parent:
            print(os.getpid(), flush=True)
        sys.stdin.readline()
except RunLockedError as error:
    sys.exit(f"refused: {error}")
"""


def hold(folder: Path, *options: str) -> subprocess.Popen[str]:
    """A process that has the lock until a line comes in, or has ended because it was refused."""
    pipe = subprocess.PIPE
    environment = {**os.environ, "PYTHONPATH": str(SRC)}
    command = [sys.executable, "-c", HOLD, str(folder), *options]
    return subprocess.Popen(
        command, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True
    )


def end(process: subprocess.Popen[str], how: int = signal.SIGKILL) -> None:
    process.send_signal(how)
    process.communicate()


def without_flock(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)


def test_the_second_process_is_refused_by_name_and_a_killed_one_leaves_no_lock(
    tmp_path: Path,
) -> None:
    first = hold(tmp_path)
    assert first.stdout
    first.stdout.readline()
    second = hold(tmp_path)
    _, said = second.communicate()
    assert second.returncode == 1
    assert f"refused: {tmp_path} is in use by process {first.pid} on {socket.gethostname()}" in said
    assert ", started 20" in said
    end(first)
    assert json.loads((tmp_path / ".lock").read_text())["pid"] == first.pid
    with RunLock(tmp_path):
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
    assert (tmp_path / ".lock").read_text() == ""


def test_a_forked_child_does_not_keep_the_lock_of_its_killed_parent(tmp_path: Path) -> None:
    parent = hold(tmp_path, "fork")
    assert parent.stdout
    child = int(parent.stdout.readline())
    with pytest.raises(RunLockedError, match=f"process {parent.pid} "), RunLock(tmp_path):
        pass
    parent.kill()
    parent.wait()
    os.kill(child, 0)  # lives, and waits
    with RunLock(tmp_path):
        pass
    assert parent.stdin
    parent.stdin.close()


def test_a_child_that_leaves_the_block_leaves_the_lock_to_its_parent(tmp_path: Path) -> None:
    with RunLock(tmp_path) as lock:
        child = os.fork()
        if not child:
            lock.__exit__(None, None, None)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        with pytest.raises(RunLockedError, match=f"process {os.getpid()} "), RunLock(tmp_path):
            pass


def test_it_opens_again_after_an_error_inside(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "run"
    with pytest.raises(KeyError), RunLock(folder):
        raise KeyError
    with RunLock(folder):
        pass


def test_without_flock_a_living_process_is_refused_and_a_dead_one_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_flock(monkeypatch)
    pid_file = tmp_path / ".lock.pid"
    with RunLock(tmp_path):
        with pytest.raises(RunLockedError, match=f"process {os.getpid()} "), RunLock(tmp_path):
            pass
        held = json.loads(pid_file.read_text())
    assert not pid_file.exists()

    pid_file.write_text(json.dumps({**held, "ticks": "1"}))  # a later process has its pid now
    with RunLock(tmp_path):
        pass
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    pid_file.write_text(json.dumps({**held, "pid": dead.pid}))
    with RunLock(tmp_path):
        pass
    pid_file.write_text(json.dumps({**held, "host": "elsewhere"}))
    with pytest.raises(RunLockedError, match=r"on elsewhere, .*; delete .*\.lock\.pid if"):
        RunLock(tmp_path).__enter__()
    pid_file.write_text("")
    with pytest.raises(RunLockedError, match=r"process .* on an unknown host"):
        RunLock(tmp_path).__enter__()
