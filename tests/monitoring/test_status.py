"""What a run says of itself when it ends, in ``status.json``."""

import json
from pathlib import Path

import pytest

from difftori.config import ConfigError
from difftori.envs import ControlEnv
from difftori.monitoring.status import amend_status, describe, read_status, slurm_job, write_status
from runs import run_debug, run_folder


def test_a_run_tells_that_it_is_done_and_a_refused_one_changes_nothing(tmp_path: Path) -> None:
    small = ("mode=default", "train_steps=256")
    assert run_debug(tmp_path, *small) == 0
    folder = run_folder(tmp_path)
    said = read_status(folder)
    assert (said["state"], said["reason"], said["env_step"]) == ("done", "", 256)
    with pytest.raises(ConfigError, match="other settings"):
        run_debug(tmp_path, *small, "lr=1e-4")
    assert read_status(folder) == said


def test_a_run_that_fails_tells_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(self: ControlEnv, action: object) -> object:
        raise RuntimeError("no more torque\nand a second line")

    monkeypatch.setattr(ControlEnv, "step", breaks)
    assert run_debug(tmp_path, "mode=default", "max_failed_episodes=1") == 1
    said = read_status(run_folder(tmp_path))
    assert said["state"] == "failed"
    assert "no more torque" in said["reason"]
    assert "\n" not in said["reason"]


def test_an_error_that_nobody_expected_is_told_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(self: object) -> None:
        raise MemoryError("63 GB")

    monkeypatch.setattr("difftori.training.trainer.Trainer.run", breaks)
    with pytest.raises(MemoryError):
        run_debug(tmp_path, "mode=default")
    said = read_status(run_folder(tmp_path))
    assert (said["state"], said["reason"]) == ("failed", "MemoryError: 63 GB")


@pytest.mark.parametrize("content", [None, "", '{"state": "do', "[1]", "\x00\xff"])
def test_what_cannot_be_read_says_nothing(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "status.json").write_text(content)
    assert read_status(tmp_path) == {}
    amend_status(tmp_path, state="failed")
    assert read_status(tmp_path) == {"state": "failed"}


def test_a_folder_that_is_gone_is_no_error(tmp_path: Path) -> None:
    write_status(tmp_path / "gone", "running")
    assert not (tmp_path / "gone").exists()


def test_only_a_job_that_requeues_the_run_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in {"JOB_ID": "9", "ARRAY_JOB_ID": "7", "ARRAY_TASK_ID": "3"}.items():
        monkeypatch.setenv(f"SLURM_{key}", value)
    assert slurm_job() is None
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    assert slurm_job() == "7_3"
    write_status(tmp_path, "stopped", reason="by SIGUSR2\nmore", env_step=4)
    said = json.loads((tmp_path / "status.json").read_text())
    assert (said["slurm_job"], said["reason"]) == ("7_3", "by SIGUSR2")


def test_exceptions_in_a_line() -> None:
    assert describe(ValueError("\n\n one \n two")) == "ValueError: one"
    assert describe(ValueError()) == "ValueError"
    assert describe(KeyboardInterrupt()) == "interrupted before it could save"
