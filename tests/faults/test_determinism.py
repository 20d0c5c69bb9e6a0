"""The same command twice gives the same bytes."""

import os
import subprocess
import sys
from pathlib import Path

from runs import fingerprint, run_folder

ROOT = Path(__file__).parents[2]


def command_line(log_dir: Path, *overrides: str, **variables: str) -> dict[str, str]:
    """The digests of what a run by the command line leaves."""
    done = subprocess.run(
        [sys.executable, "src/train.py", "preset=debug", f"log_dir={log_dir}", *overrides],
        cwd=ROOT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return fingerprint(run_folder(log_dir))


def test_two_processes_give_equal_bytes(tmp_path: Path, finished_run: Path) -> None:
    again = command_line(tmp_path, PYTHONHASHSEED="2")
    assert again == fingerprint(finished_run)


def test_two_processes_give_equal_bytes_from_pixels(tmp_path: Path) -> None:
    short = ("modality=pixels", "train_steps=256", "eval_freq=100000")
    first = command_line(tmp_path / "first", *short, PYTHONHASHSEED="1")
    second = command_line(tmp_path / "second", *short, PYTHONHASHSEED="2")
    assert first == second
