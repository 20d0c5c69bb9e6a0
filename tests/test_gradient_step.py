"""The benchmark of one step of the plan's gradient, on a run of seconds."""

import subprocess
import sys
from pathlib import Path

import pytest

from difftori.config import CONFIG_DIR
from runs import fingerprint, run_debug, run_folder

SCRIPT = CONFIG_DIR.parent / "benchmarks" / "gradient_step.py"


@pytest.mark.parametrize("within", [True, False])
def test_a_run_is_scored_before_and_after(tmp_path: Path, within: bool) -> None:
    assert run_debug(tmp_path, "mode=back_plan", f"update_within_episode={within}") == 0
    folder = run_folder(tmp_path)
    before = fingerprint(folder)
    command = [sys.executable, SCRIPT, folder, "--episodes", "2"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert fingerprint(folder) == before
    assert (done.returncode, done.stderr) == (0, "")
    rows = [line.split(" | ")[1:] for line in done.stdout.splitlines()[2:]]
    assert {len(row) for row in rows} == {6}
    if within:
        (without, target), (after, target_after) = rows[:2], rows[2:]
        assert without[0] != after[0]
        assert target[0] == target_after[0]  # the step moves the model alone
    else:  # no gradient waits
        without, target = rows
    assert without[0] != target[0]
    assert len(set(without)) > 1
