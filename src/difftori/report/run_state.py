"""Where each run below a folder stands, also while it goes on; nothing here changes it."""

import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args

from difftori.checkpoints.files import read_object
from difftori.checkpoints.folder import read_config
from difftori.checkpoints.lock import holder_of
from difftori.config import ConfigError
from difftori.monitoring.status import QUEUED_FILE, describe, read_status
from difftori.report.folders import last_record, latest_records

State = Literal["running", "waiting", "stopped", "failed", "done"]
PACE_RECORDS = 20
"""the latest records, from whose pace the time left is estimated"""


@dataclass(frozen=True)
class RunState:
    """One run as it stands now; None where it is not known."""

    folder: Path
    state: State
    reason: str
    """why it stopped, failed or waits"""
    env_step: int
    train_steps: int | None
    """env steps of the whole run"""
    last_return: float | None
    """of the last evaluation, or of the last episode before there is one"""
    left_seconds: float | None
    """of a run that is going on, at the pace of its latest records"""


def read_state(folder: Path, slurm_jobs: Mapping[str, str] | None = None) -> RunState:
    """How far the run in ``folder`` is; ``slurm_jobs`` is what ``listed_slurm_jobs`` gave.

    Where Slurm cannot be asked, a run that was put into its queue still waits.

    A run whose files hold something else counts as failed, and says so.
    """
    try:
        return _read_state(folder, slurm_jobs)
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        reason = f"its files cannot be read: {describe(error)}"
        return RunState(folder, "failed", reason, 0, None, None, None)


def _read_state(folder: Path, slurm_jobs: Mapping[str, str] | None) -> RunState:
    state, reason = _state(folder, slurm_jobs)
    try:
        total = read_config(folder).get("train_steps")
    except ConfigError:
        total = read_object(folder / QUEUED_FILE).get("train_steps")
    if not isinstance(total, int | None):
        raise TypeError(f"train_steps is {total!r}")
    scored = last_record(folder, "eval") or last_record(folder, "train")
    # where it began or ended may come after its last record
    steps = [last_record(folder).get("env_step"), read_status(folder).get("env_step")]
    return RunState(
        folder=folder,
        state=state,
        reason=reason,
        env_step=max(step or 0 for step in steps),
        train_steps=total,
        last_return=scored.get("episode_reward"),
        left_seconds=_left_seconds(folder, total) if state == "running" and total else None,
    )


def slurm_job_of(folder: Path) -> str:
    """Id of the job that the run waits for, or was last in; empty if there was none."""
    job = read_object(folder / QUEUED_FILE).get("slurm_job") or read_status(folder).get("slurm_job")
    return str(job or "")


def listed_slurm_jobs() -> dict[str, str] | None:
    """State of each of the user's jobs in Slurm's queue, by id; None: Slurm cannot be asked."""
    command = ["squeue", "--me", "--noheader", "--array", "--format=%i %T"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return dict(line.split(maxsplit=1) for line in done.stdout.splitlines())


def _state(folder: Path, slurm_jobs: Mapping[str, str] | None) -> tuple[State, str]:
    status, queued = read_status(folder), read_object(folder / QUEUED_FILE)
    said, reason = status.get("state"), str(status.get("reason") or "")
    if holder_of(folder) is not None:
        return "running", ""
    job = slurm_job_of(folder)
    if slurm_jobs is None and queued.get("slurm_job"):
        return "waiting", f"Slurm job {job}, if it is there still: squeue does not answer"
    slurm_jobs = slurm_jobs or {}
    if said != "done" and job in slurm_jobs:
        # of a running job that does not hold the folder, the run begins or has just ended
        return ("running" if slurm_jobs[job] == "RUNNING" else "waiting"), f"Slurm job {job}"
    if said != "done" and queued and not queued["slurm_job"] and _may_begin(queued):
        return "waiting", f"in the queue of process {queued['pid']}"
    if said == "running":
        killed = "killed: process {pid} on {host} is gone; the same command resumes"
        return "failed", killed.format(**status)
    if said is None:
        return "stopped", "status.json cannot be read" if last_record(folder) else "before it began"
    if said not in get_args(State):
        raise ValueError(f"status.json says {said!r}")
    return said, reason


def _may_begin(queued: Mapping[str, Any]) -> bool:
    """Whether the process that queued the run lives; one of another host cannot be looked up."""
    return queued["host"] != socket.gethostname() or Path("/proc", str(queued["pid"])).exists()


def _left_seconds(folder: Path, total: int) -> float | None:
    """From the episodes with updates: acting at random before that tells nothing of the pace."""
    records = [r for r in islice(latest_records(folder, "train"), PACE_RECORDS) if r.get("updates")]
    if len(records) < 2:
        return None
    last, first = records[0], records[-1]
    pace = (last["elapsed_seconds"] - first["elapsed_seconds"]) / (
        last["env_step"] - first["env_step"]
    )
    return max(0.0, (total - last["env_step"]) * pace)
