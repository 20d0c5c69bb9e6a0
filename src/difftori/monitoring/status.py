"""``status.json``: what a run says of itself when it begins and ends.

People look at it, and a study and a run that begins, to see whether the folder's run has ended. A
run goes on from its checkpoints alone.
"""

import json
import os
import socket
import traceback
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from difftori.checkpoints.files import read_object, write_bytes

PACKAGE = Path(__file__).resolve().parents[1]
FILE_NAME = "status.json"
QUEUED_FILE = ".queued"
"""says which process is going to start the run"""
CONSOLE_FILE = "console.log"
"""what a run of a study prints"""
State = Literal["running", "done", "stopped", "failed"]


def write_status(
    folder: Path, state: State, *, reason: str = "", env_step: int | None = None
) -> None:
    """Replace the file in one step; a disk that does not take it is no reason to stop a run.

    Args:
        reason: why it stopped or failed, one line.
        env_step: how far the run has come; None: not known.
    """
    status = {
        "state": state,
        "reason": first_line(reason),
        "env_step": env_step,
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "slurm_job": slurm_job(),
    }
    _write(folder, status)


def amend_status(folder: Path, **changes: Any) -> None:
    """What another process knows better, because the run's own was killed."""
    _write(folder, {**read_status(folder), **changes})


def clear_queued(folder: Path) -> None:
    """The run has begun, or will not."""
    with suppress(OSError):
        (folder / QUEUED_FILE).unlink(missing_ok=True)


def read_status(folder: Path) -> Mapping[str, Any]:
    """What the run said last; empty if it said nothing that can be read."""
    return read_object(folder / FILE_NAME)


def describe(error: BaseException) -> str:
    """An exception that nobody expected, in one line."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted before it could save"
    text = first_line(str(error))
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def describe_failure(error: BaseException) -> str:
    """The same of what an environment raised, with the place in its own code."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    ours = Path(frame.filename).is_relative_to(PACKAGE)
    return describe(error) + ("" if ours else f" ({frame.filename}, line {frame.lineno})")


def slurm_job() -> str | None:
    """Id of the Slurm job that runs and requeues this run, as ``squeue`` writes it.

    None in a shell or script in Slurm from which a run was started: that does not requeue it.
    """
    if os.environ.get("SUBMITIT_EXECUTOR") != "slurm":
        return None
    array, index = (os.environ.get(f"SLURM_ARRAY_{part}_ID") for part in ("JOB", "TASK"))
    return f"{array}_{index}" if array and index else os.environ.get("SLURM_JOB_ID")


def first_line(text: str) -> str:
    """The first line that says something."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def _write(folder: Path, status: Mapping[str, Any]) -> None:
    with suppress(OSError):
        write_bytes(folder / FILE_NAME, (json.dumps(status) + "\n").encode())
