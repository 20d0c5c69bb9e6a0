"""One process per run folder."""

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from difftori.checkpoints.files import read_object

LOCK_FILE = ".lock"
HOLDER_FILE = ".lock.json"
WAIT_SECONDS = 1.0
"""for the lock; one who looks whether it is held has it for an instant"""


class RunLockedError(Exception):
    """Another process uses the run folder."""


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """``with run_lock(folder):`` no other process is in there.

    The kernel's lock on ``folder/.lock`` goes with its process, however that ends. ``.lock.json``
    says who has it: pid, host and start.

    Raises:
        RunLockedError: names the holder.
        OSError: the folder cannot be written, or its file system knows no locks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(folder / LOCK_FILE, timeout=WAIT_SECONDS, fallback_to_soft=False).acquire()
    except Timeout as error:
        who = "process {pid} on {host}, started {started}".format(**_read_holder(folder))
        raise RunLockedError(f"{folder} is in use by {who}") from error
    started = datetime.now(UTC).isoformat(sep=" ", timespec="seconds")
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "started": started}
    with lock:
        with suppress(OSError):  # a full disk; the lock itself holds
            (folder / HOLDER_FILE).write_text(json.dumps(holder))
        try:
            yield
        finally:
            with suppress(OSError):  # a folder that has become read-only
                (folder / HOLDER_FILE).unlink(missing_ok=True)


def holder_of(folder: Path) -> dict[str, Any] | None:
    """The process that uses the run folder now (pid, host, started); None: nobody does.

    Unknown, in words, where it has not said who it is, as on a full disk. For people who look on;
    changes nothing. Where locks do not reach across hosts, a process of another host is not seen.
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
    unknown = {"pid": "?", "host": "an unknown host", "started": "at an unknown time"}
    return {**unknown, **read_object(folder / HOLDER_FILE)}
