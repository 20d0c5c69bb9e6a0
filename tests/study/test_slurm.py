"""A run as a job of submitit, whose local executor speaks as Slurm does, without a cluster."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import submitit
import yaml
from hydra import compose, initialize_config_dir

from builders import tiny_config
from difftori.config import CONFIG_DIR, ConfigError
from difftori.monitoring.status import read_status, write_status
from difftori.report.run_state import slurm_job_of
from difftori.study import slurm
from difftori.study.jobs import TRAIN, Job, mark_queued
from hydra_plugins.difftori_launchers import SlurmLauncher
from runs import POINT


def wait_for(condition: Callable[[], bool], job: "submitit.Job[None]") -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end, job.stderr()
        time.sleep(0.1)


def test_a_preempted_run_saves_is_queued_again_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(TRAIN.parent))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "cartpole-swingup" / "state" / "back_plan" / "default" / "1"
    log = folder / "console.log"
    words = ("preset=debug", f"log_dir={tmp_path}", "train_steps=240", *POINT)
    executor = submitit.LocalExecutor(tmp_path / "submitit")
    executor.update_parameters(timeout_min=60)
    job = executor.submit(slurm.SlurmRun(words, log))
    wait_for(lambda: (folder / "metrics.jsonl").exists(), job)
    os.kill(read_status(folder)["pid"], signal.SIGUSR2)  # as a cluster does to make room
    wait_for(job.done, job)
    printed = log.read_text()
    assert printed.count("$ python") == 2
    assert "stopped by SIGUSR2 and saved" in printed
    assert "resumed at episode" in printed
    assert read_status(folder)["state"] == "done"


@pytest.mark.parametrize(("code", "waits"), [(75, True), (0, False), (1, False)])
def test_only_a_run_that_saved_waits_for_the_end_of_its_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, waits: bool
) -> None:
    waited: list[float] = []
    script = tmp_path / "train.py"
    script.write_text(f"import sys; sys.exit({code})")
    monkeypatch.setattr(slurm, "TRAIN", script)
    monkeypatch.setattr(slurm.time, "sleep", waited.append)
    monkeypatch.setattr(slurm, "print_to", lambda path: None)
    monkeypatch.setattr(slurm.sys, "argv", [])
    try:
        slurm.SlurmRun((), tmp_path / "console.log")()
        ended = 0
    except SystemExit as error:
        ended = error.code
    assert (ended, bool(waited)) == (code, waits)


def test_a_run_whose_job_is_queued_again_goes_on_once_it_has_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    came: list[list[str]] = []
    monkeypatch.setattr(
        slurm.runpy, "run_path", lambda *args, **kwargs: came.append(slurm.sys.argv[1:])
    )
    monkeypatch.setattr(slurm, "print_to", lambda path: None)
    monkeypatch.setattr(slurm.sys, "argv", [])
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    run = slurm.SlurmRun(("overwrite=true",), tmp_path / "console.log")
    for job in ("6", "7"):
        monkeypatch.setenv("SLURM_JOB_ID", job)
        run()  # job 7 finds what job 6 left, which is to be overwritten
        write_status(tmp_path, "running")
    run.checkpoint().function()
    again = ["overwrite=true", "resume=true", "overwrite=false"]
    assert came == [["overwrite=true"], ["overwrite=true"], again]


def test_what_is_in_the_queue_already_is_not_submitted_again(
    make_job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    job = make_job(1)
    mark_queued(job, slurm_job="7_0")
    assert slurm_job_of(job.folder) == "7_0"
    monkeypatch.setattr(slurm, "listed_slurm_jobs", lambda: {"7_0": "PENDING"})
    with caplog.at_level("INFO"):
        slurm.submit([job], {})  # would need the launcher's keys
    assert "1 in the queue already, 0 to submit" in caplog.text


def test_nothing_is_submitted_while_the_queue_is_not_known(
    make_job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm, "listed_slurm_jobs", lambda: None)
    with pytest.raises(RuntimeError, match="nothing was submitted"):
        slurm.submit([make_job(1)], {})


def test_where_there_is_no_slurm_one_line_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def submit(*_: object) -> None:
        raise RuntimeError("no Slurm here")

    monkeypatch.setattr(slurm, "submit", submit)
    with pytest.raises(SystemExit):
        SlurmLauncher()._run([], None)
    assert capsys.readouterr().err == "error: no Slurm here\n"


@pytest.mark.parametrize("cores", [None, 0, "two"])
def test_a_job_needs_a_number_of_cores(cores: object) -> None:
    with pytest.raises(ConfigError, match=f"cpus_per_task={cores}: expected"):
        SlurmLauncher(cpus_per_task=cores)._threads(1)


def test_every_key_of_the_launcher_has_a_comment() -> None:
    text = (CONFIG_DIR / "hydra" / "launcher" / "slurm.yaml").read_text()
    keys = set(yaml.safe_load(text)) - {"defaults", "_target_"}
    commented = {line.partition(":")[0] for line in text.splitlines() if " #" in line}
    assert keys <= commented


def test_a_study_is_one_array_with_the_launchers_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second study leaves what is in the queue alone."""
    commands = {
        "squeue": f"cat {tmp_path}/queue 2>/dev/null",
        "srun": "",
        "sbatch": f'cp "$1" {tmp_path}/script; echo >> {tmp_path}/calls; echo job 41',
    }
    for name, text in commands.items():
        command = tmp_path / "bin" / name
        command.parent.mkdir(exist_ok=True)
        command.write_text(f"#!/bin/sh\n{text}\nexit 0\n")
        command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    words = ["hydra/launcher=slurm", "hydra.launcher.partition=gpu"]
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        keys = compose("default", words, return_hydra_config=True).hydra.launcher
    launcher = SlurmLauncher(**{key: value for key, value in keys.items() if key != "_target_"})
    configs = [tiny_config(log_dir=str(tmp_path / "logs"), seed=seed) for seed in (1, 2, 3)]
    jobs = [Job((f"seed={config.run.seed}",), config) for config in configs]
    slurm.submit(jobs, launcher.keys)
    script = (tmp_path / "script").read_text()
    wanted = ["--array=0-2%3", "--partition=gpu", "--time=240", "--signal=USR2@120", "--requeue"]
    for text in [*wanted, "export PYTHONPATH", 'trap "" USR2']:
        assert text in script
    assert [slurm_job_of(job.folder) for job in jobs] == ["41_0", "41_1", "41_2"]
    (tmp_path / "queue").write_text("".join(f"41_{index} PENDING\n" for index in range(3)))
    slurm.submit(jobs, launcher.keys)
    assert (tmp_path / "calls").read_text().count("\n") == 1
