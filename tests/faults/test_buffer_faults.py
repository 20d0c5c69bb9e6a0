"""A buffer that forgets episodes faster than they are saved."""

from pathlib import Path

import pytest

from difftori.checkpoints.tree_file import load_tree
from difftori.training.signals import RESUME_EXIT_CODE, StopSignals
from runs import records, run_debug, run_folder

SMALL_BUFFER = "max_buffer_size=32"
"""agent steps, of two episodes"""


def test_episodes_that_left_the_buffer_unsaved_do_not_keep_the_run_from_being_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = (SMALL_BUFFER, "save_every_minutes=1000", "eval_freq=100000")
    assert run_debug(tmp_path / "whole", *command) == 0
    looks = 0

    def requested(self: StopSignals) -> str | None:
        nonlocal looks
        looks += 1
        return "SIGTERM" if looks >= 16 * 7 - 8 else None  # in the updates after the last episode

    with monkeypatch.context() as patch:
        noted = property(requested, lambda self, value: None)
        patch.setattr(StopSignals, "requested", noted, raising=False)
        assert run_debug(tmp_path / "stopped", *command) == RESUME_EXIT_CODE
    assert run_debug(tmp_path / "stopped", *command) == 0
    whole, stopped = (run_folder(tmp_path / name) for name in ("whole", "stopped"))
    assert "cannot write" not in capsys.readouterr().err
    trees = [load_tree(max((f / "checkpoints").glob("step_*"))) for f in (whole, stopped)]
    assert [tree["counters"]["episode"] for tree in trees] == [4, 4]
    weights = [(folder / "models" / "model.pt").read_bytes() for folder in (whole, stopped)]
    assert weights[0] == weights[1]
    assert len(records(stopped, "train")) == 4
