"""How a run is called in its trackers."""

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_metrics import RecordingTracker

from builders import tiny_config
from difftori.monitoring import tracking
from difftori.monitoring.console import ConsoleReporter
from difftori.monitoring.tracking import start_trackers
from runs import records, run_debug, run_folder


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What W&B was started with."""
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(tracking, "start_wandb", lambda **how: calls.append(how))
    return calls


def start(folder: Path, **keys: Any) -> list[Any]:
    config = tiny_config("mode=default", log_dir=str(folder), seed=7, exp_name="wide", **keys)
    config.run.folder.mkdir(parents=True)
    return start_trackers(config, 0.0, ConsoleReporter(StringIO(), StringIO()))


def test_nothing_is_started_unasked(tmp_path: Path, started: list[dict[str, Any]]) -> None:
    assert start(tmp_path) == []
    assert started == []


def test_seeds_are_grouped_and_runs_tagged(tmp_path: Path, started: list[dict[str, Any]]) -> None:
    start(tmp_path, use_wandb=True, wandb_tags=("paper", "full"))
    (how,) = started
    assert how["name"] == "cartpole-swingup-state-default-wide-7"
    assert how["group"] == "cartpole-swingup-state-default-wide"
    assert how["tags"] == ["cartpole-swingup", "state", "default", "full", "paper"]
    assert how["config"]["seed"] == 7
    assert len(how["run_id"]) == 8


def test_the_group_can_be_chosen(tmp_path: Path, started: list[dict[str, Any]]) -> None:
    start(tmp_path, use_wandb=True, wandb_group="ablation")
    assert started[0]["group"] == "ablation"


def test_a_run_leaves_the_same_in_every_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = RecordingTracker()
    monkeypatch.setattr(tracking, "start_wandb", lambda **_: tracker)
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
