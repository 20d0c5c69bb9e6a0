"""The command, on machines that lack something."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# a broken package raises whatever it likes when it is imported
HIDE = """
import os, sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name in os.environ["HIDDEN"].split(","):
            raise OSError(f"lib{name}.so: cannot open shared object file")
sys.meta_path.insert(0, Hide())
"""


def examine(*overrides: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "src/doctor.py", *overrides],
        cwd=ROOT,
        env={**os.environ, "MUJOCO_GL": "disabled", **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("hidden", ["torch", "hydra,rich,pydantic", "omegaconf,mujoco,torch,wandb"])
def test_broken_packages_are_lines(tmp_path: Path, hidden: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(HIDE)
    done = examine(PYTHONPATH=str(tmp_path), HIDDEN=hidden)
    assert done.returncode == 1
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert all(line.startswith(("ok ", "note ", "fix ")) for line in lines[:-1])
    assert "to fix" in lines[-1]
    for name in set(hidden.split(",")) & {"torch", "hydra", "mujoco"}:
        assert any(line.startswith("fix") and f"lib{name}.so" in line for line in lines), name


def test_a_typo_is_refused() -> None:
    done = examine("tsk=cup-catch")
    assert done.returncode == 2
    assert "did you mean task" in done.stderr


def test_a_command_that_cannot_run_is_a_line() -> None:
    done = examine("device=cuda:7")
    assert done.returncode == 1
    assert "fix   command        device=cuda:7" in done.stdout
