"""Renderer, memory, disk and W&B."""

import os
import resource
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from difftori.doctor import needs


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
    monkeypatch.setattr("difftori.run.resources.available_memory", lambda: 10**9)
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
    ("used", "mode", "key", "verdict"),
    [
        (True, "online", True, "ok"),
        (True, "online", False, "fix"),
        (True, "offline", False, "ok"),
        (False, "online", False, "note"),
    ],
)
def test_wandb_login(
    monkeypatch: pytest.MonkeyPatch, used: bool, mode: str, key: bool, verdict: str
) -> None:
    _probe(monkeypatch, stdout=f"INFO a service\nLOGIN {key}\n")
    config = SimpleNamespace(use_wandb=used, wandb_mode=mode)
    assert needs.wandb_login(config).verdict == verdict


@pytest.mark.parametrize(("used", "verdict"), [(True, "fix"), (False, "note")])
def test_no_wandb(monkeypatch: pytest.MonkeyPatch, used: bool, verdict: str) -> None:
    _probe(monkeypatch, stderr="Traceback\nModuleNotFoundError: No module named 'wandb'\n")
    config = SimpleNamespace(use_wandb=used, wandb_mode="online")
    finding = needs.wandb_login(config)
    assert finding.verdict == verdict
    assert "No module named 'wandb'" in finding.text
