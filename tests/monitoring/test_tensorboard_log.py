"""TensorBoard's files, read back by TensorBoard's own reader."""

import math
import resource
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from difftori.monitoring.tensorboard_log import TensorboardLog


def begin(folder: Path, next_env_step: int = 0) -> TensorboardLog:
    return TensorboardLog(folder, {"seed": 1}, next_env_step)


def read(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder / "tensorboard")).Reload()


def points(folder: Path, tag: str = "train/episode_reward") -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in read(folder).Scalars(tag)]


def log(subject: TensorboardLog, env_step: int, reward: float, **more: Any) -> None:
    subject.log({"train/episode_reward": reward, **more}, "train", env_step)


def test_a_record_can_be_read_as_soon_as_it_is_logged(tmp_path: Path) -> None:
    subject = begin(tmp_path)
    log(subject, 500, 1.5, **{"train/planner": "mppi", "planner/plan_iterations": 4.0})
    subject.log({"eval/episode_reward": 2.0, "eval/episode_success": True}, "eval", 500)
    found = read(tmp_path)
    assert set(found.Tags()["scalars"]) == {
        *("train/episode_reward", "planner/plan_iterations"),
        *("eval/episode_reward", "eval/episode_success"),
    }
    assert points(tmp_path) == [(500, 1.5)]
    assert points(tmp_path, "eval/episode_success") == [(500, 1.0)]
    texts = {
        tag: found.Tensors(tag)[0].tensor_proto.string_val[0].decode()
        for tag in ("train/planner/text_summary", "config/text_summary")
    }
    assert texts["train/planner/text_summary"] == "mppi"
    assert "seed: 1" in texts["config/text_summary"]


def test_a_resumed_run_shows_each_step_once(tmp_path: Path) -> None:
    killed = begin(tmp_path)
    for step in (500, 1000, 1500):
        log(killed, step, 1.0)
    # resumed from a checkpoint after the first record, and the second is another one now
    resumed = begin(tmp_path, next_env_step=501)
    log(resumed, 1000, 9.0)
    resumed.close(0)
    assert points(tmp_path) == [(500, 1.0), (1000, 9.0)]


def test_numbers_that_are_not_ordinary(tmp_path: Path) -> None:
    record = {"train/a": math.nan, "train/b": -math.inf, "train/c": 3e38, "train/d": None}
    begin(tmp_path).log(record, "train", 1)
    found = read(tmp_path)
    assert set(found.Tags()["scalars"]) == {"train/a", "train/b", "train/c"}
    assert math.isnan(found.Scalars("train/a")[0].value)
    assert found.Scalars("train/b")[0].value == -math.inf


# TensorBoard's own thread says so too
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_full_disk_raises_and_leaves_what_was_there(tmp_path: Path) -> None:
    subject = begin(tmp_path)
    log(subject, 500, 1.5)
    (path,) = (tmp_path / "tensorboard").iterdir()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 20, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            log(subject, 1000, 1.5)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert points(tmp_path) == [(500, 1.5)]
