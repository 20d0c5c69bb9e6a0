"""A study of runs that are small scripts: who is started, told to stop, and what is said of it."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from difftori.checkpoints.lock import HOLDER_FILE, run_lock
from difftori.config import ConfigError
from difftori.monitoring.console import Console
from difftori.monitoring.status import read_status, write_status
from difftori.report.run_state import read_state
from difftori.study import local
from difftori.study.jobs import Job
from difftori.study.local import LocalStudy, at_a_time, run_here

SCRIPTS = {
    "done": "print('fine')",
    "fails": "print('error: the disk is on fire'); print('bye'); sys.exit(1)",
    "cannot begin": "import nowhere",
    "crashes": "os.kill(os.getpid(), 11)",
    "is killed": "os.kill(os.getpid(), 9)",
    # one that listens: it saves at a signal, as a run does
    "saves": (
        "signal.signal(signal.SIGINT, lambda *_: (print('saved'), sys.exit(75))); "
        "open('ready', 'w').close(); time.sleep(30)"
    ),
    # one that never comes to a safe point
    "hangs": (
        "signal.signal(signal.SIGINT, signal.SIG_IGN); open('ready', 'w').close(); time.sleep(30)"
    ),
    "imports": "open('ready', 'w').close(); time.sleep(30)",
    "loses its folder": "import shutil; shutil.rmtree(os.getcwd()); sys.exit(1)",
    "tells its GPU": "print(os.environ['CUDA_VISIBLE_DEVICES'])",
}


class Scripts(LocalStudy):
    """Its runs do what ``kinds`` say, in the order of the jobs."""

    def __init__(self, jobs: list[Job], kinds: list[str], n_jobs: int = 2) -> None:
        super().__init__(jobs, n_jobs)
        self.jobs, self.kinds = jobs, kinds

    def command(self, job: Job) -> list[str]:
        script = SCRIPTS[self.kinds[self.jobs.index(job)]]
        code = f"import os, sys, signal, time; os.chdir({str(job.folder)!r}); {script}"
        return [sys.executable, "-I", "-S", "-c", code]

    def outcomes(self) -> list[tuple[str, str]]:
        """State and detail, in the order of the jobs."""
        ended = {job.folder: (state, detail) for job, state, detail in self.run()}
        return [ended[job.folder] for job in self.jobs]


def when_ready(folders: list[Path], count: int, then: Callable[[], None]) -> None:
    """In a thread, so that a signal meets the study in the main one."""

    def wait() -> None:
        end = time.monotonic() + 20
        while sum((f / "ready").exists() for f in folders) < count and time.monotonic() < end:
            time.sleep(0.01)
        then()

    threading.Thread(target=wait, daemon=True).start()


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_runs_that_end_badly_do_not_end_the_others(make_job: Callable[..., Job]) -> None:
    jobs = [make_job(seed) for seed in range(5)]
    study = Scripts(jobs, ["crashes", "done", "fails", "is killed", "done"])
    outcomes = study.outcomes()
    assert [state for state, _ in outcomes] == ["failed", "done", "failed", "failed", "done"]
    assert "SIGSEGV" in outcomes[0][1]
    assert outcomes[2][1] == "the disk is on fire"
    assert "SIGKILL, out of memory?" in outcomes[3][1]
    assert (jobs[1].folder / "console.log").read_text().splitlines()[-1] == "fine"
    # what their own processes could not tell
    for index in (0, 2, 3):
        run = read_state(jobs[index].folder)
        assert (run.state, run.reason) == outcomes[index]
    assert not list(jobs[0].config.run.log_dir.rglob(".queued"))


def test_ctrl_c_lets_the_runs_save_and_begins_no_more(make_job: Callable[..., Job]) -> None:
    study = Scripts([make_job(seed) for seed in range(4)], ["saves"] * 4)
    before = signal.getsignal(signal.SIGINT)
    when_ready([job.folder for job in study.jobs], 2, interrupt)
    assert sorted(study.outcomes()) == [
        *[("stopped", "not begun")] * 2,
        *[("stopped", "saved")] * 2,
    ]
    assert signal.getsignal(signal.SIGINT) == before
    assert sum(job.folder.exists() for job in study.jobs) == 2


@pytest.fixture
def hangup_heard() -> Iterator[None]:
    """Also where the tests run under ``nohup``."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hangup_heard")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_run_that_does_not_listen_yet_has_not_failed(
    make_job: Callable[..., Job], number: int
) -> None:
    study = Scripts([make_job(0)], ["imports"])
    when_ready([study.jobs[0].folder], 1, lambda: os.kill(os.getpid(), number))
    assert study.outcomes() == [("stopped", "as it began or ended")]


def test_a_run_that_stops_again_before_it_listens_has_still_saved(
    make_job: Callable[..., Job],
) -> None:
    study = Scripts([make_job(0)], ["imports"])
    folder = study.jobs[0].folder
    folder.mkdir(parents=True)
    write_status(folder, "stopped", reason="by SIGTERM, and saved")
    when_ready([folder], 1, interrupt)
    study.outcomes()
    assert read_status(folder)["reason"] == "by SIGTERM, and saved"


def test_a_folder_that_is_deleted_fails_its_own_run(make_job: Callable[..., Job]) -> None:
    study = Scripts([make_job(0), make_job(1)], ["loses its folder", "done"])
    lost, done = study.outcomes()
    assert lost == ("failed", "console.log cannot be read: No such file or directory")
    assert done[0] == "done"


def test_a_second_ctrl_c_ends_all_at_once(make_job: Callable[..., Job]) -> None:
    study = Scripts([make_job(seed) for seed in range(3)], ["hangs"] * 3)
    for job in study.jobs:
        job.folder.mkdir(parents=True)
        write_status(job.folder, "running")
    folders = [job.folder for job in study.jobs]
    when_ready(folders, 2, lambda: (interrupt(), time.sleep(0.5), interrupt())[0])
    outcomes = study.outcomes()
    assert {state for state, _ in outcomes} == {"stopped"}
    killed = [folder for folder, (_, why) in zip(folders, outcomes, strict=True) if "once" in why]
    assert len(killed) == 2
    assert {read_status(folder)["state"] for folder in killed} == {"stopped"}


@pytest.mark.parametrize("says_who", [True, False])
def test_a_run_that_another_process_has_is_left_to_it(
    make_job: Callable[..., Job], says_who: bool
) -> None:
    study = Scripts([make_job(0), make_job(1)], ["done", "done"])
    with run_lock(study.jobs[0].folder):
        if not says_who:  # a full disk did not take its name
            (study.jobs[0].folder / HOLDER_FILE).unlink()
        outcomes = study.outcomes()
    assert [state for state, _ in outcomes] == ["running", "done"]
    assert f"in process {os.getpid() if says_who else '?'} on " in outcomes[0][1]
    assert not (study.jobs[0].folder / "console.log").exists()


def test_a_folder_that_cannot_be_made_fails_its_own_run(make_job: Callable[..., Job]) -> None:
    study = Scripts([make_job(0), make_job(1)], ["done", "done"])
    study.jobs[0].folder.parent.mkdir(parents=True)
    study.jobs[0].folder.write_text("a file in its place")
    outcomes = study.outcomes()
    assert [state for state, _ in outcomes] == ["failed", "done"]
    assert "cannot be started" in outcomes[0][1]


def test_a_run_that_cannot_begin_is_told_by_its_last_line(make_job: Callable[..., Job]) -> None:
    job = make_job(0)
    job.folder.mkdir(parents=True)
    write_status(job.folder, "stopped", reason="by SIGINT, and saved")
    Scripts([job], ["fails"]).outcomes()
    ((state, reason),) = Scripts([job], ["cannot begin"]).outcomes()
    assert (state, reason) == ("failed", "ModuleNotFoundError: No module named 'nowhere'")
    # the run that is in the folder can still go on
    assert read_status(job.folder)["state"] == "stopped"


def test_gpus_are_shared_out(make_job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "visible_gpus", lambda: ["2", "5"])
    jobs = [make_job(seed, device="auto") for seed in range(4)]
    Scripts(jobs, ["tells its GPU"] * 4, n_jobs=4).outcomes()
    told = [(job.folder / "console.log").read_text().splitlines()[-1] for job in jobs]
    assert told == ["2", "5", "2", "5"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    ((state, _),) = Scripts([make_job(9, device="cpu")], ["tells its GPU"]).outcomes()
    assert state == "failed"  # it has none to tell


def test_as_many_at_a_time_as_asked_for_or_as_there_are_cores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(local, "usable_cores", lambda: 3.5)
    assert [at_a_time(n_jobs, 10) for n_jobs in (-1, 5, 20)] == [3, 5, 10]
    with pytest.raises(ConfigError, match=r"hydra\.launcher\.n_jobs=x: expected a whole number"):
        at_a_time("x", 10)


@pytest.mark.parametrize(
    ("kinds", "code", "says"),
    [
        (["done", "done"], 0, "2 runs: 2 done (python src/status.py"),
        (["done", "saves"], 75, "1 stopped; the same command does what is missing"),
        (["fails", "saves"], 1, "1 failed"),
    ],
)
def test_exit_code_and_summary(
    make_job: Callable[..., Job],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kinds: list[str],
    code: int,
    says: str,
) -> None:
    jobs = [make_job(0), make_job(1)]
    monkeypatch.setattr(local, "LocalStudy", lambda jobs, n_jobs: Scripts(jobs, kinds, n_jobs))
    if "saves" in kinds:
        when_ready([job.folder for job in jobs], 1, interrupt)
    with Console() as console:
        assert run_here(jobs, 1, console) == code
    *_, summary = capsys.readouterr().out.splitlines()
    assert says in summary
