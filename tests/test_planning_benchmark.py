"""The comparison of planners, on a run of the debug preset."""

import json
import subprocess
import sys
from pathlib import Path

from difftori.config import CONFIG_DIR
from runs import run_debug, run_folder

SCRIPT = CONFIG_DIR.parent / "benchmarks" / "planning.py"
PLANNERS = ("policy", "mppi", "published-4", "trust-region")


def compare(run: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, SCRIPT, run, *arguments]
    return subprocess.run([str(word) for word in command], capture_output=True, text=True)


def test_a_row_for_each_planner_and_size_of_batch(tmp_path: Path) -> None:
    assert run_debug(tmp_path, "mode=default") == 0
    sizes = ("--steps", 2, "--horizons", 2, "--episodes", 2)
    named = ("--planners", *PLANNERS, "--keys", "trust_region_iterations=3")
    done = compare(run_folder(tmp_path), *sizes, *named, "--out", tmp_path / "o")
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "o" / "planning.json").read_text())
    assert [(row["planner"], row["batch"]) for row in rows] == [
        (planner, batch) for planner in PLANNERS for batch in (1, 10)
    ]
    policy, mppi, published, trust_region = rows[::2]
    assert (policy["gain_share"], mppi["gain_share"]) == (0, 1)
    assert published["gain_share"] >= 0
    assert trust_region["gain_share"] > 0
    assert trust_region["iterations"] <= 3
    assert trust_region["zero_gradient_share"] == 0
    assert policy["return_mean"] >= 0
    assert published["return_mean"] is None
    assert (tmp_path / "o" / "planning.png").exists()


def test_a_folder_that_is_no_run_is_one_line(tmp_path: Path) -> None:
    done = compare(tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "not a run" in done.stderr
