"""Where each run below a folder stands, also while it goes on; nothing here changes it."""

import csv
import itertools
import json
import math
import socket
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from difftori.checkpoints.folder import read_config
from difftori.checkpoints.lock import holder_of, lives
from difftori.config import ConfigError
from difftori.monitoring.status import FILE_NAME, QUEUED_FILE, read_status
from difftori.report.folders import KEY, last_record, latest_records, walk_runs

State = Literal["running", "waiting", "stopped", "failed", "done"]
STATES: tuple[State, ...] = ("running", "waiting", "stopped", "failed", "done")
_PACE_RECORDS = 20
"""the latest records, from whose pace the time left is estimated"""


@dataclass(frozen=True)
class RunState:
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
    """of a run that is going on, at the pace of its latest records"""

    @property
    def percent(self) -> float | None:
        return min(100.0, 100 * self.env_step / self.train_steps) if self.train_steps else None

    def as_json(self) -> dict[str, Any]:
        values = asdict(self)
        return {**values.pop("key"), **values, "folder": str(self.folder), "percent": self.percent}


def find_begun_or_queued(place: Path) -> list[Path]:
    """The run folders in and below ``place``, those of runs that have not begun included."""
    return list(walk_runs(place, _is_run))


def _is_run(names: set[str]) -> bool:
    begun = not names.isdisjoint({FILE_NAME, QUEUED_FILE, "metrics.jsonl"})
    return begun or names >= {"config.yaml", "checkpoints"}


def read_state(folder: Path, slurm_jobs: Mapping[str, str] | None = None) -> RunState:
    """How far the run in ``folder`` is; ``slurm_jobs`` is what ``listed_slurm_jobs`` gave."""
    config: dict[str, Any] = {}
    with suppress(ConfigError):
        config = read_config(folder)
    queued = _read_queued(folder)
    state, reason = _state(folder, bool(config), queued, slurm_jobs or {})
    total = _number(config, "train_steps") or _number(queued, "train_steps")
    key = config or queued
    if any(key.get(name) is None for name in KEY):
        key = dict(zip(KEY, folder.resolve().parts[-len(KEY) :], strict=False))
    last_return = _last_evaluation(folder / "eval.csv")
    if last_return is None:
        last_return = _number(last_record(folder, "train"), "episode_reward")
    return RunState(
        folder=folder,
        key={name: key.get(name, "?") for name in KEY},
        state=state,
        reason=reason,
        env_step=env_step_of(folder),
        train_steps=None if total is None else int(total),
        last_return=last_return,
        elapsed_seconds=_number(last_record(folder), "elapsed_seconds"),
        left_seconds=_left_seconds(folder, total) if state == "running" and total else None,
    )


def env_step_of(folder: Path) -> int:
    """How far the run is: at its last record, or where it began or ended after that."""
    steps = (_number(last, "env_step") for last in (last_record(folder), read_status(folder)))
    return int(max(step or 0 for step in steps))


def slurm_job_of(folder: Path) -> str:
    """Id of the job that the run waits for, or was last in; empty if there was none."""
    job = _read_queued(folder).get("slurm_job") or read_status(folder).get("slurm_job")
    return str(job or "")


def listed_slurm_jobs() -> dict[str, str] | None:
    """State of each of the user's jobs in Slurm's queue, by id; None: Slurm cannot be asked."""
    command = ["squeue", "--me", "--noheader", "--array", "--format=%i %T"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    pairs = (line.split() for line in done.stdout.splitlines())
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}


def _state(
    folder: Path, has_config: bool, queued: Mapping[str, Any], slurm_jobs: Mapping[str, str]
) -> tuple[State, str]:
    here = socket.gethostname()
    holder = holder_of(folder)
    if holder is not None:
        host = holder.get("host", here)
        return "running", "" if host == here else f"on {host}"
    state, reason = _own_word(folder, has_config)
    if state == "done":
        return state, reason
    job = slurm_job_of(folder)
    if job in slurm_jobs:
        # of a running job that does not hold the folder, the run begins or has just ended
        return ("running" if slurm_jobs[job] == "RUNNING" else "waiting"), f"Slurm job {job}"
    # a process of another host cannot be looked up
    if (
        queued
        and not queued.get("slurm_job")
        and (queued.get("host") != here or lives(dict(queued)))
    ):
        return "waiting", f"in the queue of process {queued.get('pid')}"
    return state, reason


def _own_word(folder: Path, has_config: bool) -> tuple[State, str]:
    """What the run said last, when no process is in its folder."""
    status = read_status(folder)
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
    return "stopped", "" if has_config else "before it began"


def _left_seconds(folder: Path, total: float) -> float | None:
    records = [
        (step, seconds)
        for record in itertools.islice(latest_records(folder), _PACE_RECORDS)
        # acting at random, before anything is learned, tells nothing of the pace
        if record.get("planner") != "random" or record.get("updates")
        if (step := _number(record, "env_step")) is not None
        and (seconds := _number(record, "elapsed_seconds")) is not None
    ]
    if not records:
        return None
    (step, seconds), (first_step, first_seconds) = records[0], records[-1]
    if step <= first_step:
        first_step, first_seconds = 0, 0.0
    if step <= first_step or seconds <= first_seconds:
        return None
    return max(0.0, (total - step) * (seconds - first_seconds) / (step - first_step))


def _last_evaluation(path: Path) -> float | None:
    """The return in the last whole row; read without pandas, which takes longer to load."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # what follows the last line end is being written, and would read as another number
    rows = csv.DictReader(text.rpartition("\n")[0].splitlines())
    value = None
    for row in rows:
        with suppress(KeyError, TypeError, ValueError):
            number = float(row["episode_reward"])
            value = number if math.isfinite(number) else value
    return value


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
