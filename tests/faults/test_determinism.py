"""The same command twice gives the same bytes."""

import os
import subprocess
import sys
from pathlib import Path

from runs import fingerprint, run_folder

ROOT = Path(__file__).parents[2]


def test_two_processes_give_equal_bytes(tmp_path: Path, finished_run: Path) -> None:
    done = subprocess.run(
        [sys.executable, "src/train.py", "preset=debug", f"log_dir={tmp_path}"],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "2"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert fingerprint(run_folder(tmp_path)) == fingerprint(finished_run)
