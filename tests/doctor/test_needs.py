"""Renderer, memory, disk and W&B."""

import os
import resource
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from difftori.config import compose
from difftori.doctor import needs
from runs import run_debug

POINT = ("suite=integrator", "domain=point-2d", "domain_task=16-steps", "action_repeat=1")


def _probe(monkeypatch: pytest.MonkeyPatch, stdout: str = "", stderr: str = "") -> None:
    done = subprocess.CompletedProcess([], 1, stdout, stderr)
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: done)


def test_the_renderer_that_works_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "")
    _probe(monkeypatch, stdout="a driver's greeting\nframe egl 8.25\n")
    finding = needs.rendering(needed=True)
    assert finding.verdict == "ok"
    assert "egl, 8.2 ms" in finding.text
    assert os.environ["MUJOCO_GL"] == "egl"


@pytest.mark.parametrize(
    ("chosen", "needed", "verdict", "remedy"),
    [
        ("", True, "fix", "libegl1"),
        ("", False, "note", "libegl1"),
        ("osmesa", True, "fix", "libosmesa6"),
        # the simulator does not even load with a choice that does not work
        ("osmesa", False, "fix", "libosmesa6"),
        ("disabled", True, "fix", "unset MUJOCO_GL"),
        ("disabled", False, "note", "unset MUJOCO_GL"),
    ],
)
def test_no_renderer(
    monkeypatch: pytest.MonkeyPatch, chosen: str, needed: bool, verdict: str, remedy: str
) -> None:
    monkeypatch.setenv("MUJOCO_GL", chosen)
    _probe(monkeypatch, stderr="Traceback\n  File x\nImportError: no driver\n")
    finding = needs.rendering(needed=needed)
    assert finding.verdict == verdict
    assert "no driver" in finding.text
    assert remedy in finding.remedy


def test_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("difftori.training.resources.available_memory", lambda: 10**9)
    monkeypatch.setattr(needs, "MEMORY_FILES", (tmp_path / "max", tmp_path / "current"))
    assert needs.memory(0.9e9, on_cpu=True).verdict == "ok"
    assert needs.memory(1.1e9, on_cpu=True).verdict == "fix"
    assert needs.memory(1.1e9, on_cpu=False).verdict == "ok"
    # a job's limit counts where the machine has more
    (tmp_path / "max").write_text("800000000\n")
    (tmp_path / "current").write_text("300000000\n")
    assert needs.memory(0.6e9, on_cpu=True).verdict == "fix"
    (tmp_path / "max").write_text("max\n")
    assert needs.memory(0.6e9, on_cpu=True).verdict == "ok"


def test_a_disk_with_room_and_one_too_small(tmp_path: Path) -> None:
    folder = tmp_path / "logs" / "not" / "there" / "yet"
    assert needs.disk(folder, 1e3).verdict == "ok"
    assert needs.disk(folder, 1e18).verdict == "fix"
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        finding = needs.disk(tmp_path, 1e3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert finding.verdict == "fix"
    assert "cannot be written" in finding.text


@pytest.mark.parametrize(
    ("used", "mode", "key", "verdict", "says"),
    [
        (True, "online", True, "ok", "logged in"),
        (True, "online", False, "note", "the run goes on without W&B"),
        (True, "offline", False, "ok", "wandb_mode=offline"),
        (False, "online", False, "note", "not used"),
    ],
)
def test_wandb_login(
    monkeypatch: pytest.MonkeyPatch, used: bool, mode: str, key: bool, verdict: str, says: str
) -> None:
    _probe(monkeypatch, stdout=f"INFO a service\nLOGIN {key}\n")
    config = SimpleNamespace(use_wandb=used, wandb_mode=mode)
    finding = needs.wandb_login(config)
    assert finding.verdict == verdict
    assert says in finding.text


@pytest.mark.parametrize("used", [True, False])
def test_no_wandb(monkeypatch: pytest.MonkeyPatch, used: bool) -> None:
    _probe(monkeypatch, stderr="Traceback\nModuleNotFoundError: No module named 'wandb'\n")
    config = SimpleNamespace(use_wandb=used, wandb_mode="online")
    finding = needs.wandb_login(config)
    assert finding.verdict == "note"
    assert "No module named 'wandb'" in finding.text


@pytest.fixture(scope="module")
def log_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run that is complete."""
    folder = tmp_path_factory.mktemp("logs")
    assert run_debug(folder, *POINT) == 0
    return folder


@pytest.mark.parametrize(
    ("keys", "verdict", "says"),
    [
        ((), "ok", "the same command goes on with it"),
        (("train_steps=96", "device=cpu"), "ok", "the same command goes on with it"),
        (("lr=0.5",), "fix", "other settings: lr"),
        (("preset=quick",), "fix", "more"),
        (("lr=0.5", "exp_name=other"), "ok", "is free"),
        (("resume=false",), "fix", "resume=false does not touch"),
        (("lr=0.5", "resume=false", "overwrite=true"), "note", "will delete"),
    ],
)
def test_a_run_that_is_there(log_dir: Path, keys: tuple[str, ...], verdict: str, says: str) -> None:
    finding = needs.run_folder(compose("preset=debug", f"log_dir={log_dir}", *POINT, *keys))
    assert finding.verdict == verdict
    assert says in finding.text
    assert ("another exp_name" in finding.remedy) == (verdict == "fix")


def test_a_run_without_checkpoints(tmp_path: Path) -> None:
    config = compose("preset=debug", f"log_dir={tmp_path}")
    folder = config.run.folder
    (folder / "models").mkdir(parents=True)
    (folder / "metrics.jsonl").touch()
    assert "begins it again" in needs.run_folder(config).text
    (folder / "models" / "model.pt").touch()
    assert needs.run_folder(config).verdict == "fix"
    (folder / "checkpoints").mkdir()
    assert needs.run_folder(config).verdict == "ok"
    (folder / "checkpoints" / "step_000000000001.safetensors").write_bytes(b"damaged")
    assert "none of whose checkpoints can be read" in needs.run_folder(config).text
