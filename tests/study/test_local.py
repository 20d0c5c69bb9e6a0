"""A study of runs that are small scripts: who is started, told to stop, and what is said of it."""

import io
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from difftori.checkpoints.lock import RunLock
from difftori.monitoring.console import ConsoleReporter
from difftori.monitoring.status import read_status, write_status
from difftori.report.run_state import read_state
from difftori.study.jobs import Job
from difftori.study.local import LocalStudy
from difftori.study.outcome import Outcome, exit_code, summary

WORDS = {
    "done": "print('fine')",
    "fails": "print('error: the disk is on fire'); sys.exit(1)",
    "cannot begin": "import nowhere",
    "crashes": "import ctypes; os.kill(os.getpid(), 11)",
    "is killed": "os.kill(os.getpid(), 9)",
    # one that listens: it saves at a signal, as a run does
    "saves": (
        "signal.signal(signal.SIGINT, lambda *_: sys.exit(75)); "
        "open('ready', 'w').close(); time.sleep(30)"
    ),
    # one that never comes to a safe point
    "hangs": (
        "signal.signal(signal.SIGINT, signal.SIG_IGN); open('ready', 'w').close(); time.sleep(30)"
    ),
}


class Stdout(io.StringIO):
    def fileno(self) -> int:
        raise OSError


class Study:
    """A study whose runs do what ``kinds`` say, by the numbers of their jobs."""

    def __init__(self, jobs: list[Job], kinds: dict[int, str], n_jobs: int = 2) -> None:
        self.jobs = jobs
        self.kinds = kinds
        self.out = Stdout()
        console = ConsoleReporter(self.out, self.out)
        self.study = LocalStudy(jobs, n_jobs=n_jobs, command=self.command, console=console)

    def command(self, job: Job) -> list[str]:
        code = f"import os, sys, signal, time; os.chdir({str(job.folder)!r}); "
        return [sys.executable, "-I", "-S", "-c", code + WORDS[self.kinds[job.number]]]

    def run(self) -> dict[int, Outcome]:
        return {outcome.job.number: outcome for outcome in self.study.run()}

    def ready(self) -> bool:
        running = [job for job in self.jobs if self.kinds[job.number] in ("saves", "hangs")]
        return sum((job.folder / "ready").exists() for job in running) >= 2


def when(condition: Callable[[], bool], then: Callable[[], None]) -> None:
    """In a thread, so that a signal meets the study in the main one."""

    def wait() -> None:
        end = time.monotonic() + 20
        while not condition() and time.monotonic() < end:
            time.sleep(0.01)
        then()

    threading.Thread(target=wait, daemon=True).start()


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_runs_that_end_badly_do_not_end_the_others(
    make_job: Callable[..., Job], n_jobs: int
) -> None:
    kinds = {0: "crashes", 1: "done", 2: "fails", 3: "is killed", 4: "done"}
    study = Study([make_job(number) for number in kinds], kinds, n_jobs)
    outcomes = study.run()
    assert {n: outcome.state for n, outcome in outcomes.items()} == {
        0: "failed", 1: "done", 2: "failed", 3: "failed", 4: "done"
    }  # fmt: skip
    assert "SIGSEGV" in outcomes[0].detail
    assert "the disk is on fire" in outcomes[2].detail
    assert "SIGKILL, out of memory?" in outcomes[3].detail
    said = study.out.getvalue()
    assert all(f"[{count}/5] " in said for count in range(1, 6))
    assert "fine" not in said
    assert (study.jobs[1].folder / "console.log").read_text().splitlines()[-1] == "fine"
    assert exit_code(list(outcomes.values())) == 1
    # what their own processes could not tell
    for number in (0, 2, 3):
        run = read_state(study.jobs[number].folder)
        assert (run.state, run.reason in outcomes[number].detail) == ("failed", True)
    assert not list(study.jobs[0].config.run.log_dir.rglob(".queued"))


def test_ctrl_c_lets_the_runs_save_and_begins_no_more(make_job: Callable[..., Job]) -> None:
    study = Study([make_job(n) for n in range(4)], dict.fromkeys(range(4), "saves"))
    before = signal.getsignal(signal.SIGINT)
    when(study.ready, interrupt)
    outcomes = study.run()
    assert {outcome.state for outcome in outcomes.values()} == {"stopped"}
    assert sorted(outcome.detail == "not begun" for outcome in outcomes.values()) == [
        *(False, False),
        *(True, True),
    ]
    assert exit_code(list(outcomes.values()), killed=study.study.killed) == 75
    assert signal.getsignal(signal.SIGINT) == before
    begun = [job for job in study.jobs if job.folder.exists()]
    assert len(begun) == 2


def test_a_second_ctrl_c_ends_all_at_once(make_job: Callable[..., Job]) -> None:
    study = Study([make_job(n) for n in range(3)], dict.fromkeys(range(3), "hangs"))
    for job in study.jobs:
        job.folder.mkdir(parents=True)
        write_status(job.folder, "running")
    when(study.ready, lambda: (interrupt(), time.sleep(0.1), interrupt())[0])
    outcomes = study.run()
    assert {outcome.state for outcome in outcomes.values()} == {"stopped"}
    assert exit_code(list(outcomes.values()), killed=study.study.killed) == 130
    killed = [n for n, outcome in outcomes.items() if "second interrupt" in outcome.detail]
    assert len(killed) == 2
    assert all(read_status(study.jobs[n].folder)["state"] == "stopped" for n in killed)


def test_a_run_that_another_process_has_is_left_to_it(make_job: Callable[..., Job]) -> None:
    study = Study([make_job(0), make_job(1)], {0: "done", 1: "done"})
    with RunLock(study.jobs[0].folder):
        outcomes = study.run()
    assert (outcomes[0].state, outcomes[1].state) == ("running", "done")
    assert f"in process {os.getpid()} on " in outcomes[0].detail
    assert not (study.jobs[0].folder / "console.log").exists()


def test_a_folder_that_cannot_be_made_fails_its_own_run(make_job: Callable[..., Job]) -> None:
    study = Study([make_job(0), make_job(1)], {0: "done", 1: "done"})
    study.jobs[0].folder.parent.mkdir(parents=True)
    study.jobs[0].folder.write_text("a file in its place")
    outcomes = study.run()
    assert (outcomes[0].state, outcomes[1].state) == ("failed", "done")
    assert "cannot be started" in outcomes[0].detail


def test_a_run_of_old_reasons_tells_the_new_one(make_job: Callable[..., Job]) -> None:
    study = Study([make_job(0)], {0: "fails"})
    study.run()
    study.kinds[0] = "crashes"
    assert "SIGSEGV" in study.run()[0].detail
    folder = study.jobs[0].folder
    assert json.loads((folder / "status.json").read_text())["reason"] == "killed by SIGSEGV"


def test_a_run_that_cannot_begin_is_told_by_its_last_line(make_job: Callable[..., Job]) -> None:
    study = Study([make_job(0)], {0: "cannot begin"})
    study.jobs[0].folder.mkdir(parents=True)
    write_status(study.jobs[0].folder, "stopped", reason="by SIGINT, and saved")
    outcomes = study.run()
    assert "No module named 'nowhere'" in outcomes[0].detail
    assert read_status(study.jobs[0].folder)["state"] == "stopped"


def test_the_summary_says_how_to_go_on(make_job: Callable[..., Job]) -> None:
    done, failed = Outcome(make_job(0), "done", ""), Outcome(make_job(1), "failed", "why")
    assert failed.line(3, 10).startswith("[ 3/10] failed  ")
    assert "same command" not in summary([done, done], Path("logs"))
    assert summary([done, failed, done], Path("logs")).startswith(
        "3 runs: 2 done, 1 failed; the same command does what is missing"
    )
