"""A study in Slurm, seen from the process that submitted it and from within a job."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from difftori.monitoring.console import ConsoleReporter
from difftori.report.run_state import env_step_of, listed_slurm_jobs, read_state
from difftori.study.jobs import Job
from difftori.study.outcome import EndState, Outcome
from difftori.training.signals import RESUME_EXIT_CODE

LOOK_EVERY_SECONDS = 5.0
ABSENT_LOOKS = 2
"""times in a row that a job must be missing from the queue to count as ended"""
WAIT_FOR_END_SECONDS = 600.0


def follow(
    jobs: Mapping[str, Job],
    *,
    ended: int,
    console: ConsoleReporter,
    listed: Callable[[], Mapping[str, str] | None] = listed_slurm_jobs,
    sleep: Callable[[float], None] = time.sleep,
) -> list[Outcome]:
    """Wait until all jobs have left the queue; prints a line for each.

    The queue is asked and not the accounting, which small clusters have not.

    Args:
        jobs: by their id.
        ended: runs of the study that had ended before.
        listed: what ``squeue`` says; None: it cannot be asked now.
    """
    absent = dict.fromkeys(jobs, 0)
    outcomes: list[Outcome] = []
    total = ended + len(jobs)

    def env_steps() -> int:
        return sum(env_step_of(job.folder) for job in jobs.values())

    train_steps = sum(job.config.run.train_steps for job in jobs.values())
    console.start(train_steps, "env steps", env_steps())
    while absent:
        sleep(LOOK_EVERY_SECONDS)
        queue = listed()
        if queue is None:
            continue
        running = sum(queue.get(identifier) == "RUNNING" for identifier in jobs)
        console.phase(f"{running} running, {len(absent) - running} waiting")
        console.advance(env_steps())
        for identifier in list(absent):
            absent[identifier] = 0 if identifier in queue else absent[identifier] + 1
            if absent[identifier] >= ABSENT_LOOKS:
                del absent[identifier]
                outcomes.append(_outcome(jobs[identifier]))
                console.info(outcomes[-1].line(ended + len(outcomes), total))
    return outcomes


def _outcome(job: Job) -> Outcome:
    run = read_state(job.folder)
    state: EndState = "stopped" if run.state == "waiting" else run.state
    value = "" if run.last_return is None else f"return {run.last_return:.1f}"
    return Outcome(job, state, run.reason or (value if state == "done" else ""))


@contextmanager
def printed_to(path: Path) -> Iterator[None]:
    """All that this process prints goes to the end of a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    before = [os.dup(descriptor) for descriptor in (1, 2)]
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for descriptor, kept in zip((1, 2), before, strict=True):
            os.dup2(kept, descriptor)
            os.close(kept)


@contextmanager
def ended_by_slurm(sleep: Callable[[float], None] = time.sleep) -> Iterator[None]:
    """A run that saved and stopped waits here for the end of its job.

    Slurm sends SIGTERM before it preempts, requeues or cancels. A job that ends by itself then
    counts as failed, and may not be queued again; one that is killed does what Slurm meant.
    """
    try:
        yield
    except SystemExit as error:
        if error.code == RESUME_EXIT_CODE:
            print("waiting for Slurm to end the job", flush=True)
            sleep(WAIT_FOR_END_SECONDS)
        raise
