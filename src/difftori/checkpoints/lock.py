"""One process per run folder."""

import errno
import fcntl
import json
import os
import socket
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

_NO_FLOCK = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
_held: set[int] = set()
SILENCE_SECONDS = 1200
"""after which a run on another host counts as gone; checkpoints come every few minutes"""


def _close_in_child() -> None:
    """A forked child shares the lock and would keep it when its parent is killed."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_close_in_child)


class RunLockedError(Exception):
    """Another process uses the run folder."""


class RunLock:
    """``with RunLock(folder):`` no other process is in there.

    The kernel's lock on ``folder/.lock`` goes with its process, however that ends. The file itself
    stays, with pid, host and start of its holder. Where the file system has no such locks,
    ``.lock.pid`` is the lock, and counts while its process lives; one of another host cannot be
    looked up, and is refused.

    Raises RunLockedError naming the holder, OSError when the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / ".lock"
        self._pid_path = folder / ".lock.pid"
        self._descriptor: int | None = None
        self._by_pid = False

    def __enter__(self) -> "RunLock":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise self._refusal(_read_when_written(self.path)) from None
            except OSError as error:
                if error.errno not in _NO_FLOCK:
                    raise
                self._take_by_pid()
                self._by_pid = True
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(_self()).encode(), 0)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        _held.add(descriptor)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None or descriptor not in _held:
            return  # a forked child leaves the block; the lock is its parent's
        if self._by_pid:
            self._pid_path.unlink(missing_ok=True)
        os.ftruncate(descriptor, 0)
        _held.remove(descriptor)
        os.close(descriptor)

    def _refusal(self, holder: dict[str, Any], remedy: str = "") -> RunLockedError:
        who = "process {pid} on {host}, started {started}".format(
            **{"pid": "?", "host": "an unknown host", "started": "at an unknown time", **holder}
        )
        return RunLockedError(f"{self.path.parent} is in use by {who}{remedy}")

    def _take_by_pid(self) -> None:
        """The lock without the kernel's help; two that take over a dead one's lock can race."""
        for _ in range(3):
            try:
                descriptor = os.open(self._pid_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            except FileExistsError:
                holder = _read_when_written(self._pid_path)
                if holder.get("host") != socket.gethostname():
                    raise self._refusal(
                        holder, f"; delete {self._pid_path} if that process is gone"
                    ) from None
                if lives(holder):
                    raise self._refusal(holder) from None
                self._pid_path.unlink(missing_ok=True)
            else:
                os.write(descriptor, json.dumps(_self()).encode())
                os.close(descriptor)
                return
        raise self._refusal(_read_when_written(self._pid_path))


def holder_of(folder: Path) -> dict[str, Any] | None:
    """The process that uses the run folder now (pid, host, started); None: nobody does.

    For people who look on: it takes no lock of a process of this host, so no run that begins
    meanwhile is refused. A process of another host cannot be looked up; it counts if its lock
    holds, or, where locks do not reach across hosts, if the run wrote lately.
    """
    for path in (folder / ".lock", folder / ".lock.pid"):
        try:
            holder = json.loads(path.read_text())
        except (OSError, ValueError):
            continue
        if not isinstance(holder, dict) or "pid" not in holder:
            continue
        if holder.get("host") == socket.gethostname():
            if lives(holder):
                return holder
        elif _is_locked(path) or _wrote_lately(folder):
            return holder
    return None


def _is_locked(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False


def _wrote_lately(folder: Path) -> bool:
    times = [0.0]
    for name in ("metrics.jsonl", "status.json", "console.log", "checkpoints", ".lock"):
        with suppress(OSError):
            times.append((folder / name).stat().st_mtime)
    return time.time() - max(times) < SILENCE_SECONDS


def _self() -> dict[str, Any]:
    pid = os.getpid()
    started = datetime.now(UTC).isoformat(sep=" ", timespec="seconds")
    return {
        "pid": pid,
        "host": socket.gethostname(),
        "started": started,
        "ticks": process_ticks(pid),
    }


def process_ticks(pid: int) -> str:
    """When the process began, since boot: tells it from a later one with the same pid."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def lives(holder: dict[str, Any]) -> bool:
    """Whether the process that wrote this note, on this host, is still there."""
    try:
        os.kill(int(holder["pid"]), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return holder.get("ticks") in ("", None, process_ticks(int(holder["pid"])))


def _read_when_written(path: Path) -> dict[str, Any]:
    """The holder; it may have taken the lock this instant and not yet written who it is."""
    for _ in range(20):
        try:
            holder = json.loads(path.read_text())
            if isinstance(holder, dict):
                return holder
        except (OSError, ValueError):
            pass
        time.sleep(0.02)
    return {}
