"""Which trackers a run has, and what they show of it."""

import sys
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_metrics import RecordingTracker

from builders import tiny_config
from difftori.monitoring import wandb_log
from difftori.monitoring.trackers import named, start_trackers
from runs import records, run_debug, run_folder

BOTH = {"use_wandb": True, "use_tensorboard": True}


def start(folder: Path, **keys: Any) -> list[Any]:
    config = tiny_config("mode=default", log_dir=str(folder), **keys)
    config.run.folder.mkdir(parents=True)
    return start_trackers(config, next_env_step=0)


def test_nothing_is_started_unasked(tmp_path: Path) -> None:
    assert start(tmp_path) == []
    assert list(tmp_path.rglob("*wandb*")) + list(tmp_path.rglob("tensorboard")) == []


def test_a_package_that_is_missing_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for package in ("wandb", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, package, None)
    for module in ("wandb_log", "tensorboard_log"):
        monkeypatch.delitem(sys.modules, f"difftori.monitoring.{module}", raising=False)
    assert start(tmp_path, **BOTH) == []
    wandb, tensorboard = caplog.messages
    assert wandb.startswith("W&B is off: ")
    assert tensorboard.startswith("TensorBoard is off: ")
    assert all("pip install" in line for line in caplog.messages)


def test_one_that_cannot_start_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(wandb_log, "start_wandb", refuse)
    monkeypatch.setattr("difftori.monitoring.tensorboard_log.SummaryWriter", refuse)
    assert start(tmp_path, **BOTH) == []
    assert caplog.messages == [
        "W&B is off: [Errno 13] Permission denied",
        "TensorBoard is off: [Errno 13] Permission denied",
    ]


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
    monkeypatch.setattr(wandb_log, "start_wandb", lambda config, name: tracker)
    switches = ("use_tensorboard=true", "use_wandb=true")
    assert run_debug(tmp_path, *switches, "train_steps=256") == 0
    assert run_debug(tmp_path, *switches, "wandb_artifact=false") == 0
    folder = run_folder(tmp_path)
    name = "model-cartpole-swingup-state-back_plan-default-1"
    kept = [call[1:] for call in tracker.other if call[0] == "artifact"]
    assert kept == [(folder / "models" / "model.pt", name)]
    best = max(record["episode_reward"] for record in records(folder, "eval"))
    summaries = [call[1] for call in tracker.other if call[0] == "summary"]
    assert summaries[-1] == {"eval/best_episode_reward": best}
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
