"""How a run of a study ended, in one line."""

import signal
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from difftori.cli import INTERRUPTED_EXIT_CODE
from difftori.monitoring.progress import format_seconds
from difftori.monitoring.status import CONSOLE_FILE, amend_status, one_line, read_status
from difftori.report.folders import last_record
from difftori.study.jobs import Job
from difftori.training.signals import RESUME_EXIT_CODE

FAILED_EXIT_CODE = 1
_NOT_YET_LISTENING = {INTERRUPTED_EXIT_CODE, -signal.SIGINT, -signal.SIGTERM}
"""exit codes of a process that was asked to stop while it was importing"""
_ANNOUNCED = "error: "
EndState = Literal["done", "stopped", "failed", "running"]


@dataclass(frozen=True)
class Outcome:
    job: Job
    state: EndState
    """running: in another process"""
    detail: str
    """return and time, or the reason"""

    @property
    def exit_code(self) -> int:
        return {"done": 0, "failed": FAILED_EXIT_CODE}.get(self.state, RESUME_EXIT_CODE)

    def line(self, count: int, total: int) -> str:
        """``count`` of ``total`` runs have ended, this one included."""
        detail = f": {self.detail}" if self.detail else ""
        return f"[{count:>{len(str(total))}}/{total}] {self.state:<7} {self.job.label}{detail}"


def ended(
    job: Job, pid: int, code: int, *, seconds: float, stopping: bool, killed: bool, log_start: int
) -> Outcome:
    """What the exit code of a run's process means; also tells the run's folder what it lacks.

    Args:
        stopping: the study was asked to stop.
        killed: it was killed by the study itself.
        log_start: bytes of the run's console.log that are older than the process.
    """
    folder = job.folder
    if code == 0:
        return Outcome(job, "done", f"{_return(folder)}in {format_seconds(seconds)}")
    if code == RESUME_EXIT_CODE:
        return Outcome(job, "stopped", _stopped_at(job))
    if killed:
        reason = "ended at once, by a second interrupt"
        amend_status(folder, state="stopped", reason=reason)
        return Outcome(job, "stopped", f"{reason}; goes on from its last checkpoint")
    if stopping and code in _NOT_YET_LISTENING:
        return Outcome(job, "stopped", "before it began")
    if code < 0:
        name = signal.Signals(-code).name
        reason = f"killed by {name}" + (", out of memory?" if name == "SIGKILL" else "")
        amend_status(folder, state="failed", reason=reason)
    else:
        status = read_status(folder)
        own = status.get("pid") == pid and status.get("state") == "failed"
        reason = str(status.get("reason")) if own else ""
        reason = reason or last_words(folder / CONSOLE_FILE, log_start) or f"exit code {code}"
        if not status:
            amend_status(folder, state="failed", reason=reason)
    return Outcome(job, "failed", f"{reason} (see {folder / CONSOLE_FILE})")


def summary(outcomes: Sequence[Outcome], log_dir: Path) -> str:
    """All that a study did, in a line."""
    counts = Counter(outcome.state for outcome in outcomes)
    states = ", ".join(f"{count} {state}" for state, count in counts.most_common())
    remedy = "" if set(counts) == {"done"} else "; the same command does what is missing"
    return f"{len(outcomes)} runs: {states}{remedy} (python src/status.py {log_dir} shows all)"


def exit_code(outcomes: Sequence[Outcome], *, killed: bool = False) -> int:
    """The worst of all: failed, then interrupted, then stopped, then 0."""
    codes = {outcome.exit_code for outcome in outcomes}
    if FAILED_EXIT_CODE in codes:
        return FAILED_EXIT_CODE
    return INTERRUPTED_EXIT_CODE if killed else max(codes, default=0)


def last_words(log: Path, start: int = 0) -> str:
    """The last error, or else the last line, that the run printed from byte ``start`` on."""
    try:
        with log.open("rb") as file:
            file.seek(start)
            lines = [line for line in file.read().decode(errors="replace").splitlines() if line]
    except OSError:
        return ""
    errors = [line for line in lines if line.startswith(_ANNOUNCED)]
    said = errors or lines[1:]  # the first is the command
    return one_line(said[-1].removeprefix(_ANNOUNCED)) if said else ""


def _return(folder: Path) -> str:
    record = last_record(folder, "eval") or last_record(folder, "train") or {}
    value = record.get("episode_reward")
    return f"return {value:.1f}, " if isinstance(value, int | float) else ""


def _stopped_at(job: Job) -> str:
    step = read_status(job.folder).get("env_step")
    reason = str(read_status(job.folder).get("reason") or "saved")
    where = f", at {step:,} of {job.config.run.train_steps:,} env steps" if step else ""
    return f"{reason}{where}"
