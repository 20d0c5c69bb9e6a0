"""A study on this machine: each run is a process of its own, several at a time.

A run that fails, or is killed for its memory, can thus take no other with it. joblib hands out
the runs; its workers are threads that each wait for one process.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import IO

from difftori.checkpoints.lock import holder_of
from difftori.monitoring.console import ConsoleReporter
from difftori.monitoring.status import CONSOLE_FILE, describe, one_line
from difftori.report.run_state import env_step_of
from difftori.study.jobs import Job, is_finished, mark_queued, unmark_queued
from difftori.study.outcome import Outcome, ended

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
LOOK_EVERY_SECONDS = 2.0
"""at how far the runs are"""
Command = Callable[[Job], Sequence[str]]


class LocalStudy:
    """Runs what is missing of ``jobs``.

    The first signal is passed on to the runs, which save and stop, and nothing more is begun; a
    second Ctrl-C kills them. They are in sessions of their own, so a terminal's Ctrl-C reaches
    them only through here.
    """

    def __init__(
        self, jobs: Sequence[Job], *, n_jobs: int, command: Command, console: ConsoleReporter
    ) -> None:
        self._jobs = jobs
        self._n_jobs = n_jobs
        self._command = command
        self._console = console
        # a single worker is the main thread itself, which a signal may find holding it
        self._lock = threading.RLock()
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        """of the runs that are going on, by the number of their job"""
        self._stopping = self._killing = False
        self._steps = {job.number: env_step_of(job.folder) for job in jobs}

    def run(self) -> list[Outcome]:
        """How each run ended, in the order in which they did; prints a line for each."""
        from joblib import Parallel, delayed

        missing = [job for job in self._jobs if not is_finished(job)]
        outcomes = [
            Outcome(job, "done", "nothing left to do") for job in self._jobs if job not in missing
        ]  # fmt: skip
        for count, outcome in enumerate(outcomes, 1):
            self._console.info(outcome.line(count, len(self._jobs)))
        if not missing:
            return outcomes
        for job in missing:
            mark_queued(job)
        ended_all = threading.Event()
        looking = threading.Thread(target=self._look, args=(ended_all,), daemon=True)
        work = (delayed(self._supervise)(job) for job in missing)
        workers = Parallel(
            n_jobs=self._n_jobs,
            backend="threading",
            return_as="generator_unordered",
            batch_size=1,
            pre_dispatch="all",
        )
        with self._signals():
            total = sum(job.config.run.train_steps for job in self._jobs)
            self._console.start(total, "env steps", sum(self._steps.values()))
            looking.start()
            try:
                for outcome in workers(work):
                    outcomes.append(outcome)
                    self._console.info(outcome.line(len(outcomes), len(self._jobs)))
            finally:
                ended_all.set()
                looking.join()
                for job in missing:
                    unmark_queued(job)
        return outcomes

    @property
    def killed(self) -> bool:
        """Whether a second Ctrl-C ended it."""
        return self._killing

    def _supervise(self, job: Job) -> Outcome:
        """One run, from start to end, in a thread."""
        try:
            return self._run_one(job)
        except Exception as error:  # whatever happens to one run, the others go on
            return Outcome(job, "failed", describe(error))

    def _run_one(self, job: Job) -> Outcome:
        if self._stopping:
            return Outcome(job, "stopped", "not begun")
        holder = holder_of(job.folder)
        if holder is not None:
            return Outcome(job, "running", "in process {pid} on {host}".format(**holder))
        began = time.monotonic()
        log_path = job.folder / CONSOLE_FILE
        try:
            job.folder.mkdir(parents=True, exist_ok=True)
            mark_queued(job, starting=True)
            with log_path.open("ab") as log:
                log_start = log.tell()
                process = self._start(job, log)
        except OSError as error:
            return Outcome(job, "failed", f"cannot be started: {one_line(str(error))}")
        if process is None:
            return Outcome(job, "stopped", "not begun")
        code = process.wait()
        with self._lock:
            del self._processes[job.number]
        unmark_queued(job)
        self._steps[job.number] = env_step_of(job.folder)
        return ended(
            job,
            process.pid,
            code,
            seconds=time.monotonic() - began,
            stopping=self._stopping,
            killed=self._killing,
            log_start=log_start,
        )

    def _start(self, job: Job, log: IO[bytes]) -> subprocess.Popen[bytes] | None:
        """None if the study has been asked to stop meanwhile."""
        command = [str(word) for word in self._command(job)]
        environment = dict(os.environ)
        if job.config.run.threads is not None:
            # for libraries that make their threads before torch is told how many
            environment.setdefault("OMP_NUM_THREADS", str(job.config.run.threads))
        with self._lock:
            if self._stopping:
                return None
            log.write(f"$ {' '.join(command)}\n".encode())
            log.flush()
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=environment,
            )
            self._processes[job.number] = process
        if self._stopping:  # since the look above; a process that has not yet begun may hear twice
            process.send_signal(signal.SIGTERM)
        return process

    # ---- progress

    def _look(self, ended_all: threading.Event) -> None:
        """Show how far all runs are, until they have ended."""
        while not ended_all.wait(LOOK_EVERY_SECONDS):
            by_number = {job.number: job for job in self._jobs}
            for number in list(self._processes):
                self._steps[number] = env_step_of(by_number[number].folder)
            running = f"{len(self._processes)} running"
            hint = "stopping, Ctrl-C again kills: " if self._stopping else ""
            self._console.phase(hint + running)
            self._console.advance(sum(self._steps.values()))

    # ---- signals

    @contextmanager
    def _signals(self) -> Iterator[None]:
        before = {}
        for name in SIGNALS:
            number = getattr(signal, name)
            # nohup has a study ignore that its terminal is gone
            if name != "SIGHUP" or signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, self._stop)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        with self._lock:
            again, self._stopping = self._stopping, True
            self._killing |= again and number == signal.SIGINT
            for process in list(self._processes.values()):
                with suppress(ProcessLookupError):
                    if self._killing:
                        os.killpg(process.pid, signal.SIGKILL)
                    elif not again:
                        passed_on = signal.SIGTERM if number == signal.SIGHUP else number
                        process.send_signal(passed_on)
        if not again:
            text = "stopping: the runs save and end; Ctrl-C again ends them at once\n"
            # not through the console: this may have interrupted one of its lines
            with suppress(OSError):
                os.write(sys.stderr.fileno(), text.encode())
