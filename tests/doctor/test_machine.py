"""Cores, compiler, bf16."""

from pathlib import Path

import pytest
import torch

from difftori.doctor import machine


def test_a_quota_leaves_fewer_cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    quota = tmp_path / "cpu.max"
    monkeypatch.setattr(machine, "CPU_QUOTA", quota)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)))
    assert machine.usable_cores() == 8
    quota.write_text("max 100000\n")
    assert machine.usable_cores() == 8
    quota.write_text("150000 100000\n")
    assert machine.usable_cores() == 1.5


@pytest.mark.parametrize(
    ("wanted", "load", "verdict", "remedy"),
    [(2, 0.5, "ok", ""), (4, 0.5, "note", "threads=2"), (1, 9.0, "note", "wait")],
)
def test_threads(
    monkeypatch: pytest.MonkeyPatch, wanted: int, load: float, verdict: str, remedy: str
) -> None:
    monkeypatch.setattr(machine, "usable_cores", lambda: 2)
    monkeypatch.setattr("os.getloadavg", lambda: (load, load, load))
    finding = machine.threads(wanted)
    assert finding.verdict == verdict
    assert finding.remedy.startswith(remedy)


def test_no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    finding = machine.compiler(wanted=True)
    assert finding.verdict == "note"
    assert "compile=true will be ignored" in finding.text
    assert "only compile=true would use it" in machine.compiler(wanted=False).text
    # one that is there and fails is none
    (tmp_path / "g++").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "g++").chmod(0o755)
    assert machine.compiler(wanted=False).verdict == "note"
    (tmp_path / "g++").write_text("#!/bin/sh\nexit 0\n")
    assert machine.compiler(wanted=False).verdict == "ok"


@pytest.mark.parametrize(
    ("precision", "bf16_seconds", "verdict", "says"),
    [
        ("bf16", 1.0, "note", "precision=fp32"),
        ("bf16", 0.2, "ok", "5.0 times"),
        ("fp32", 0.2, "ok", "precision=bf16 would use it"),
        ("fp32", 1.0, "ok", "1.0 times"),
    ],
)
def test_bf16(
    monkeypatch: pytest.MonkeyPatch, precision: str, bf16_seconds: float, verdict: str, says: str
) -> None:
    def seconds(dtype: torch.dtype, *rest: object) -> float:
        return bf16_seconds if dtype is torch.bfloat16 else 1.0

    monkeypatch.setattr(machine, "_seconds", seconds)
    finding = machine.bf16(precision, 4, 8, torch.device("cpu"))
    assert finding.verdict == verdict
    assert says in f"{finding.text} {finding.remedy}"
