"""Which trackers a run has, and what they show of it."""

import sys
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_metrics import RecordingTracker

from builders import tiny_config
from difftori.monitoring import trackers
from difftori.monitoring.trackers import TensorboardTracker, named, start_trackers
from runs import run_debug, run_folder

BOTH = {"use_wandb": True, "use_tensorboard": True}


def start(folder: Path, **keys: Any) -> list[Any]:
    config = tiny_config("mode=default", log_dir=str(folder), **keys)
    config.run.folder.mkdir(parents=True)
    return start_trackers(config, next_env_step=0)


def test_nothing_is_started_unasked(tmp_path: Path) -> None:
    assert start(tmp_path) == []
    assert list(tmp_path.rglob("*wandb*")) + list(tmp_path.rglob("tensorboard")) == []


def test_one_that_cannot_start_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for package in ("wandb", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, package, None)
    assert start(tmp_path, **BOTH) == []
    wandb, tensorboard = caplog.messages
    assert wandb.startswith("W&B is off: ")
    assert tensorboard.startswith("TensorBoard is off: ")


def test_the_planner_has_a_panel_of_its_own() -> None:
    record = {"env_step": 1, "plan_iterations": 7.0, "reward_loss": 0.5}
    assert named(record, "train") == {
        "train/plan_iterations": 7.0,
        "train/reward_loss": 0.5,
        "planner/plan_iterations": 7.0,
    }
    assert named({"env_step": 1, "grad_norm_a": 1.0}, "eval") == {"eval/grad_norm_a": 1.0}


def test_a_run_leaves_the_same_in_every_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = RecordingTracker()
    monkeypatch.setattr(trackers, "WandbTracker", lambda config, next_env_step: tracker)
    switches = ("use_tensorboard=true", "use_wandb=true")
    assert run_debug(tmp_path, *switches, "train_steps=256") == 0
    assert run_debug(tmp_path, *switches, "wandb_artifact=false") == 0
    folder = run_folder(tmp_path)
    kept = [call[1:] for call in tracker.other if call[0] == "artifact"]
    assert kept == [(folder / "models" / "model.pt",)]
    assert [step for _, step in tracker.rows] == [128, 256, 256, 384, 512, 512]
    found = EventAccumulator(str(folder / "tensorboard")).Reload()
    steps = [event.step for event in found.Scalars("train/episode_reward")]
    assert steps == [128, 256, 384, 512]
    assert [event.step for event in found.Scalars("eval/episode_reward")] == [256, 512]
    panel = {tag for tag in found.Tags()["scalars"] if tag.startswith("planner/")}
    assert panel == {
        *("planner/plan_iterations", "planner/plan_return_before", "planner/plan_return_after"),
        *("planner/plan_return_gain", "planner/share_at_bound", "planner/share_zero_gradients"),
        *("planner/grad_norm_a", "planner/plans_dropped", "planner/plans_not_finite"),
    }
    before, after, gain = (
        found.Scalars(f"planner/plan_return_{name}")[-1].value
        for name in ("before", "after", "gain")
    )
    assert gain == pytest.approx(after - before, abs=1e-4)
    assert gain >= 0


def test_tensorboard_shows_each_step_of_a_killed_run_once(tmp_path: Path) -> None:
    config = tiny_config("mode=default", log_dir=str(tmp_path))
    killed = TensorboardTracker(config, 0)
    for step in (500, 1000, 1500):
        killed.log({"train/reward": 1.0, "train/planner": "mppi"}, "train", step)
    # resumed from a checkpoint after the first record, and the second is another one now
    resumed = TensorboardTracker(config, 501)
    resumed.log({"train/reward": 9.0}, "train", 1000)
    events = EventAccumulator(str(config.run.folder / "tensorboard")).Reload()
    shown = [(event.step, event.value) for event in events.Scalars("train/reward")]
    assert shown == [(500, 1.0), (1000, 9.0)]
