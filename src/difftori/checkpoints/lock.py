"""One process per run folder."""

import fcntl
import json
import os
import socket
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

LOCK_FILE = ".lock"
HOLDER_FILE = ".lock.json"
WAIT_SECONDS = 1.0
"""for the lock; one who looks whether it is held has it for an instant"""


class RunLockedError(Exception):
    """Another process uses the run folder."""


class RunLock:
    """``with RunLock(folder):`` no other process is in there.

    The kernel's lock on ``folder/.lock`` goes with its process, however that ends. ``.lock.json``
    says who has it: pid, host and start.

    Raises:
        RunLockedError: names the holder.
        OSError: the folder cannot be written, or its file system knows no locks.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = FileLock(folder / LOCK_FILE, timeout=WAIT_SECONDS)

    def __enter__(self) -> "RunLock":
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire()
        except Timeout as error:
            unknown = {"pid": "?", "host": "an unknown host", "started": "at an unknown time"}
            who = "process {pid} on {host}, started {started}".format(
                **{**unknown, **_read_holder(self._folder)}
            )
            raise RunLockedError(f"{self._folder} is in use by {who}") from error
        started = datetime.now(UTC).isoformat(sep=" ", timespec="seconds")
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "started": started}
        with suppress(OSError):  # a full disk; the lock itself holds
            (self._folder / HOLDER_FILE).write_text(json.dumps(holder))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        (self._folder / HOLDER_FILE).unlink(missing_ok=True)
        self._lock.release()


def holder_of(folder: Path) -> dict[str, Any] | None:
    """The process that uses the run folder now (pid, host, started); None: nobody does.

    Empty where it has not said who it is, as on a full disk. For people who look on; changes
    nothing. Where locks do not reach across hosts, a process of another host is not seen.
    """
    return _read_holder(folder) if _is_locked(folder / LOCK_FILE) else None


def _is_locked(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # closing gives it back
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _read_holder(folder: Path) -> dict[str, Any]:
    try:
        holder = json.loads((folder / HOLDER_FILE).read_text())
    except (OSError, ValueError):
        return {}
    return holder if isinstance(holder, dict) and "pid" in holder else {}


def process_ticks(pid: int) -> str:
    """When the process began, since boot: tells it from a later one with the same pid."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def lives(note: dict[str, Any]) -> bool:
    """Whether the process of this host with the note's ``pid`` and ``ticks`` is still there."""
    try:
        os.kill(int(note["pid"]), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return note.get("ticks") in ("", None, process_ticks(int(note["pid"])))
