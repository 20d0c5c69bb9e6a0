"""The archive of a study's runs: small, readable by the plots, and complete after each call."""

import subprocess
import sys
from pathlib import Path

import pandas as pd

from difftori.config import CONFIG_DIR
from difftori.report.folders import find_runs
from runs import run_debug, run_folder

SCRIPT = CONFIG_DIR.parent / "benchmarks" / "archive_runs.py"


def test_finished_runs_are_kept_and_earlier_ones_stay(tmp_path: Path) -> None:
    out = tmp_path / "archive"
    for seed in (3, 4):
        logs = tmp_path / f"logs{seed}"
        assert run_debug(logs, "mode=back_plan", f"seed={seed}") == 0
        subprocess.run([sys.executable, SCRIPT, logs, "--out", out], check=True)
        kept = out / run_folder(logs).relative_to(logs)
        assert (kept / "eval.csv").read_bytes() == (run_folder(logs) / "eval.csv").read_bytes()
    lines = pd.read_csv(out / "runs.csv")
    assert list(lines.seed) == [3, 4]
    assert (lines.updates == 48).all()
    assert lines.share_zero_gradients.between(0, 1).all()
    assert len(find_runs([str(out)])) == 2


def test_a_run_is_listed_once_and_one_that_cannot_be_read_stops_nothing(tmp_path: Path) -> None:
    """Also where a name looks like a number."""
    logs, out = tmp_path / "logs", tmp_path / "archive"
    for name in ("1", "2"):
        assert run_debug(logs, "train_steps=128", "eval_freq=128", f"exp_name={name}") == 0
        for _ in range(2):
            done = subprocess.run(
                [sys.executable, SCRIPT, logs, "--out", out], check=True, capture_output=True
            )
            if name == "1":
                kept = pd.read_csv(out / "runs.csv")
                assert len(kept) == 1
        (metrics,) = logs.glob(f"*/*/*/{name}/*/metrics.jsonl")
        metrics.write_text('{"cat')
    assert b"left out" in done.stderr
    assert list(pd.read_csv(out / "runs.csv").exp_name) == [1, 2]
