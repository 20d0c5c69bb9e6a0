"""Where every run below a folder stands, also while they go on; nothing here changes them."""

import itertools
import json
import math
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from difftori.checkpoints.lock import holder_of, lives
from difftori.monitoring.status import FILE_NAME, QUEUED_FILE, read_status
from difftori.report.runs import RunKey, last_record, latest_records, read_evaluations

State = Literal["running", "waiting", "stopped", "failed", "done"]
STATES: tuple[State, ...] = ("running", "waiting", "stopped", "failed", "done")
_MARKS = (FILE_NAME, QUEUED_FILE, "metrics.jsonl")
"""a folder with one of these is a run's"""
_PACE_RECORDS = 20
"""the latest episodes, from whose pace the time left is told"""


@dataclass(frozen=True)
class RunProgress:
    """One run as it stands now; None where it is not known."""

    folder: Path
    key: Mapping[str, Any]
    """task, modality, mode, exp_name, seed"""
    state: State
    reason: str
    """why it stopped, failed or waits"""
    env_step: int
    train_steps: int | None
    """env steps of the whole run"""
    last_return: float | None
    """of the last evaluation, or of the last episode before there is one"""
    elapsed_seconds: float | None
    """of training, up to the last record"""
    left_seconds: float | None
    """of a run that is going on, at the pace of its latest episodes"""

    @property
    def percent(self) -> float | None:
        if not self.train_steps:
            return None
        return min(100.0, 100 * self.env_step / self.train_steps)

    def as_json(self) -> dict[str, Any]:
        return {
            **self.key,
            "folder": str(self.folder),
            "state": self.state,
            "reason": self.reason,
            "env_step": self.env_step,
            "train_steps": self.train_steps,
            "percent": self.percent,
            "last_return": self.last_return,
            "elapsed_seconds": self.elapsed_seconds,
            "left_seconds": self.left_seconds,
        }


def find_runs(place: Path) -> list[Path]:
    """The run folders in and below ``place``, those of runs that have not begun included."""
    return list(_walk(place))


def _walk(place: Path) -> Iterator[Path]:
    for parent, children, files in os.walk(place, followlinks=True):
        if any(name in files for name in _MARKS) or (
            "config.yaml" in files and "checkpoints" in children
        ):
            children.clear()
            yield Path(parent)
        # in place, as os.walk asks for
        children[:] = sorted((c for c in children if not c.startswith(".")), key=_by_number)


def _by_number(name: str) -> tuple[int, str]:
    """So that seed 3 comes before seed 21."""
    return (int(name), "") if name.isdigit() else (-1, name)


def read_progress(folder: Path, slurm_jobs: Mapping[str, str] | None = None) -> RunProgress:
    """How far the run in ``folder`` is; ``slurm_jobs`` is what ``listed_slurm_jobs`` gave."""
    status, config, queued = read_status(folder), _read_config(folder), _read_queued(folder)
    train, last = last_record(folder, "train"), last_record(folder)
    state, reason = _state(folder, status, config, queued, slurm_jobs or {})
    total = _number(config, "train_steps") or _number(queued, "train_steps")
    evaluations, *_ = read_evaluations(folder / "eval.csv")
    last_return = evaluations[-1].reward if evaluations else _number(train, "episode_reward")
    return RunProgress(
        folder=folder,
        key=_key(folder, config or queued),
        state=state,
        reason=reason,
        env_step=env_step_of(folder),
        train_steps=None if total is None else int(total),
        last_return=last_return,
        elapsed_seconds=_number(last, "elapsed_seconds"),
        left_seconds=_left_seconds(folder, total) if state == "running" else None,
    )


def _state(
    folder: Path,
    status: Mapping[str, Any],
    config: Mapping[str, Any],
    queued: Mapping[str, Any],
    slurm_jobs: Mapping[str, str],
) -> tuple[State, str]:
    holder = holder_of(folder)
    if holder is not None:
        here = holder.get("host") == socket.gethostname()
        return "running", "" if here else f"on {holder.get('host')}"
    state, reason = _own_word(folder, status, config)
    if state == "done":
        return state, reason
    job = slurm_job_of(folder)
    if job in slurm_jobs:
        # of a running job that does not hold the folder, the run begins or has just ended
        return ("running" if slurm_jobs[job] == "RUNNING" else "waiting"), f"Slurm job {job}"
    # a process of another host cannot be looked up
    alive = queued.get("host") != socket.gethostname() or lives(dict(queued))
    if queued and not queued.get("slurm_job") and alive:
        if queued.get("starting"):
            return "running", "starting"
        return "waiting", f"in the queue of process {queued.get('pid')}"
    return state, reason


def env_step_of(folder: Path) -> int:
    """How far the run is: at its last record, or where it began or ended after that."""
    steps = (_number(last, "env_step") for last in (last_record(folder), read_status(folder)))
    return int(max(step or 0 for step in steps))


def slurm_job_of(folder: Path) -> str:
    """Id of the job that the run waits for, or was last in; empty if there was none."""
    job = _read_queued(folder).get("slurm_job") or read_status(folder).get("slurm_job")
    return str(job or "")


def _own_word(
    folder: Path, status: Mapping[str, Any], config: Mapping[str, Any]
) -> tuple[State, str]:
    """What the run said last, when no process is in its folder."""
    said, reason = status.get("state"), str(status.get("reason") or "")
    if said == "done":
        return "done", reason
    if said == "failed":
        return "failed", reason or "it did not say why"
    if said == "stopped":
        return "stopped", reason
    if said == "running":
        pid, host = status.get("pid", "?"), status.get("host", "?")
        return "failed", f"killed: process {pid} on {host} is gone; the same command resumes"
    if (folder / "models" / "model.pt").exists():
        return "done", ""
    return "stopped", "" if config else "before it began"


def _left_seconds(folder: Path, total: float | None) -> float | None:
    records = [
        (step, seconds)
        for record in itertools.islice(latest_records(folder), _PACE_RECORDS)
        # acting at random, before anything is learned, tells nothing of the pace
        if record.get("planner") != "random" or record.get("updates")
        if (step := _number(record, "env_step")) is not None
        and (seconds := _number(record, "elapsed_seconds")) is not None
    ]
    if total is None or not records:
        return None
    (step, seconds), (first_step, first_seconds) = records[0], records[-1]
    if step <= first_step:
        first_step, first_seconds = 0, 0.0
    if step <= first_step or seconds <= first_seconds:
        return None
    left = (total - step) * (seconds - first_seconds) / (step - first_step)
    # a run that has been resumed writes its status before it adds to its records
    times = [0.0]
    for name in ("metrics.jsonl", FILE_NAME):
        with suppress(OSError):
            times.append((folder / name).stat().st_mtime)
    since = time.time() - max(times)
    return max(0.0, left - max(0.0, since))


def _key(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """From the config, or else from the folders that the run lies in."""
    if all(config.get(name) is not None for name in RunKey._fields):
        return {name: config[name] for name in RunKey._fields}
    parts = folder.resolve().parts[-len(RunKey._fields) :]
    return dict(zip(RunKey._fields, parts, strict=False))


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return config if isinstance(config, dict) else {}


def _read_queued(folder: Path) -> dict[str, Any]:
    try:
        note = json.loads((folder / QUEUED_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) and "pid" in note else {}


def _number(record: Mapping[str, Any] | None, key: str) -> float | None:
    value = None if record is None else record.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value


def listed_slurm_jobs() -> dict[str, str] | None:
    """State of each of the user's jobs in Slurm's queue, by id; None: Slurm cannot be asked."""
    command = ["squeue", "--me", "--noheader", "--array", "--format=%i %T"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    pairs = (line.split() for line in done.stdout.splitlines())
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2} if done.returncode == 0 else None
