"""A study on this machine: each run is a process of its own, several at a time.

A run that fails, or is killed for its memory, can thus take no other with it.
"""

import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Literal

from difftori.checkpoints.lock import holder_of
from difftori.config import ConfigError
from difftori.machine import usable_cores, visible_gpus
from difftori.monitoring.console import Console
from difftori.monitoring.status import CONSOLE_FILE, amend_status, first_line, read_status
from difftori.process import FAILED_EXIT_CODE, INTERRUPTED_EXIT_CODE, RESUME_EXIT_CODE
from difftori.report.run_state import read_state
from difftori.study.jobs import TRAIN, Job, is_finished, mark_queued, unmark_queued
from difftori.training.signals import SIGNALS, heard_signals

POLL_SECONDS = 0.1
NOT_YET_LISTENING = {INTERRUPTED_EXIT_CODE, *(-number for number in SIGNALS)}
"""exit codes of a process that was asked to stop while it was importing"""
State = Literal["done", "stopped", "failed", "running"]
"""how a run ended; running: in another process"""

logger = logging.getLogger(__name__)


def run_here(jobs: Sequence[Job], n_jobs: int, console: Console) -> int:
    """Run what is missing of a study, a line for each run that ends.

    Returns:
        1 if a run failed, else 75 if one is not done, else 0.
    """
    logger.info(f"{len(jobs)} runs, {n_jobs} at a time; each prints to its folder's console.log")
    console.start(len(jobs), "runs", 0)
    ended: Counter[State] = Counter()
    for job, state, detail in LocalStudy(jobs, n_jobs).run():
        ended[state] += 1
        console.advance(ended.total())
        logger.info(f"[{ended.total()}/{len(jobs)}] {state:<7} {job.folder}: {detail}")
    states = ", ".join(f"{count} {state}" for state, count in ended.most_common())
    remedy = "" if ended["done"] == len(jobs) else "; the same command does what is missing"
    log_dir = jobs[0].config.run.log_dir
    logger.info(f"{len(jobs)} runs: {states}{remedy} (python src/status.py {log_dir} shows all)")
    if ended["failed"]:
        return FAILED_EXIT_CODE
    return 0 if ended["done"] == len(jobs) else RESUME_EXIT_CODE


@dataclass(frozen=True)
class _Process:
    job: Job
    popen: subprocess.Popen[bytes]
    gpu: str | None


class LocalStudy:
    """Runs what is missing of ``jobs``, ``n_jobs`` at a time.

    The first signal is passed on to the runs, which save and stop, and nothing more is begun; a
    second Ctrl-C kills them. They are in sessions of their own, so a terminal's Ctrl-C reaches
    them only through here.
    """

    def __init__(self, jobs: Sequence[Job], n_jobs: int) -> None:
        self._jobs = jobs
        self._n_jobs = n_jobs
        self._running: list[_Process] = []
        self._signals: list[int] = []
        """that have come and are not yet acted upon"""
        self._stopping = self._killing = False

    def run(self) -> Iterator[tuple[Job, State, str]]:
        """Gives how each run ended, and a few words on it, as it ends."""
        finished = [job for job in self._jobs if is_finished(job)]
        yield from ((job, "done", "nothing left to do") for job in finished)
        waiting = [job for job in self._jobs if job not in finished]
        gpus = visible_gpus() if waiting else []
        for job in waiting:
            mark_queued(job)
        with self._noting_signals():
            try:
                while waiting or self._running:
                    self._obey_signals()
                    while waiting and (self._stopping or len(self._running) < self._n_jobs):
                        job = waiting.pop(0)
                        not_begun = self._begin(job, gpus)
                        if not_begun is not None:
                            unmark_queued(job)
                            yield job, *not_begun
                    for process in [p for p in self._running if p.popen.poll() is not None]:
                        self._running.remove(process)
                        yield process.job, *self._ended(process)
                    time.sleep(POLL_SECONDS)
            finally:
                for job in waiting:
                    unmark_queued(job)

    def command(self, job: Job) -> list[str]:
        """What starts the run."""
        return [sys.executable, str(TRAIN), *job.overrides]

    def _begin(self, job: Job, gpus: Sequence[str]) -> tuple[State, str] | None:
        """Start the run; how it ended, if it cannot begin."""
        if self._stopping:
            return "stopped", "not begun"
        run, holder = job.config.run, holder_of(job.folder)
        if holder is not None:
            return "running", "in process {pid} on {host}".format(**holder)
        command, environment, gpu = self.command(job), dict(os.environ), None
        # for libraries that make their threads before torch is told how many
        if run.threads is not None:
            environment.setdefault("OMP_NUM_THREADS", str(run.threads))
        if gpus and run.device in ("auto", "cuda") and run.buffer_device in ("cpu", "cuda"):
            gpu = min(gpus, key=[process.gpu for process in self._running].count)
            environment["CUDA_VISIBLE_DEVICES"] = gpu
        try:
            job.folder.mkdir(parents=True, exist_ok=True)
            with (job.folder / CONSOLE_FILE).open("ab") as log:
                log.write(f"$ {' '.join(command)}\n".encode())
                log.flush()
                popen = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    env=environment,
                )
        except OSError as error:
            return "failed", f"cannot be started: {first_line(str(error))}"
        self._running.append(_Process(job, popen, gpu))
        return None

    def _ended(self, process: _Process) -> tuple[State, str]:
        """What the exit code means; also tells the run's folder what the run could not."""
        folder, code = process.job.folder, process.popen.returncode
        unmark_queued(process.job)
        if code == 0 or is_finished(process.job):  # a signal may meet the end of a finished run
            last_return = read_state(folder).last_return
            return "done", "" if last_return is None else f"return {last_return:.4g}"
        state: State = "failed"
        if code == RESUME_EXIT_CODE:
            state, reason = "stopped", last_words(folder)
        elif self._killing:
            state, reason = "stopped", "ended at once; goes on from its last checkpoint"
        elif self._stopping and code in NOT_YET_LISTENING:
            state, reason = "stopped", "as it began or ended"
        elif code < 0:
            name = signal.Signals(-code).name
            reason = f"killed by {name}" + (", out of memory?" if name == "SIGKILL" else "")
        else:
            reason = last_words(folder) or f"exit code {code}"
        said = read_status(folder).get("state")
        stopped_before = said == state == "stopped"  # and has done nothing since
        if said is None or (code < 0 and said != "done" and not stopped_before):
            amend_status(folder, state=state, reason=reason)
        return state, reason

    # ---- signals

    @contextmanager
    def _noting_signals(self) -> Iterator[None]:
        def note(number: int, frame: FrameType | None) -> None:
            self._signals.append(number)

        before = {number: signal.signal(number, note) for number in heard_signals()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _obey_signals(self) -> None:
        while self._signals:
            number = self._signals.pop(0)
            if not self._stopping:
                logger.info("stopping: the runs save and end; Ctrl-C again ends them at once")
                for process in self._running:
                    process.popen.send_signal(number)
            elif number == signal.SIGINT:
                self._killing = True
                for process in self._running:
                    with suppress(ProcessLookupError):
                        os.killpg(process.popen.pid, signal.SIGKILL)
            self._stopping = True


def last_words(folder: Path) -> str:
    """The last error, or else the last line, that the run's latest process printed."""
    try:
        text = (folder / CONSOLE_FILE).read_text(errors="replace")
    except OSError as error:
        return f"{CONSOLE_FILE} cannot be read: {error.strerror}"
    # each process of the run begins with a line that tells its command
    latest = re.split(r"^\$ ", text, flags=re.MULTILINE)[-1]
    lines = [line for line in latest.splitlines()[1:] if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines or [""])[-1].strip()


def at_a_time(n_jobs: object, run_count: int) -> int:
    """Runs at a time; ``n_jobs`` of -1: one for each core. Raises ConfigError for no number."""
    if type(n_jobs) is not int:
        raise ConfigError(f"hydra.launcher.n_jobs={n_jobs}: expected a whole number")
    return min(run_count, n_jobs if n_jobs > 0 else max(1, int(usable_cores())))
