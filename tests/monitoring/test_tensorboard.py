"""TensorBoard's files, read back by TensorBoard's own reader."""

import math
import resource
import sys
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from difftori.monitoring.tensorboard import TensorboardTracker, start_tensorboard
from difftori.monitoring.trackers import Tracker


def begin(folder: Path, warnings: list[str] | None = None, elapsed: float = 0.0) -> Any:
    heard = [] if warnings is None else warnings
    return start_tensorboard(
        folder=folder, config={"seed": 1}, elapsed_seconds=elapsed, warn=heard.append
    )


def read(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder / "tensorboard")).Reload()


def points(folder: Path, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in read(folder).Scalars(tag)]


def record(episode: int) -> dict[str, Any]:
    return {
        "train/episode_reward": 1.5 * episode,
        "train/planner": "mppi",
        "train/elapsed_seconds": 10.0 * episode,
        "planner/plan_iterations": 4.0,
    }


def test_a_record_can_be_read_as_soon_as_it_is_logged(tmp_path: Path) -> None:
    subject = begin(tmp_path)
    assert isinstance(subject, Tracker)
    subject.log(record(1), 500)
    subject.log({"eval/episode_reward": 2.0, "eval/episode_success": True}, 500)
    found = read(tmp_path)
    assert set(found.Tags()["scalars"]) == {
        *("train/episode_reward", "train/elapsed_seconds", "planner/plan_iterations"),
        *("eval/episode_reward", "eval/episode_success"),
    }
    assert points(tmp_path, "train/episode_reward") == [(500, 1.5)]
    assert points(tmp_path, "eval/episode_success") == [(500, 1.0)]
    texts = {
        tag: found.Tensors(tag)[0].tensor_proto.string_val[0].decode()
        for tag in ("train/planner/text_summary", "config/text_summary")
    }
    assert texts["train/planner/text_summary"] == "mppi"
    assert "seed: 1" in texts["config/text_summary"]
    subject.summary({})
    subject.video(tmp_path / "v.mp4", 500)
    subject.artifact(tmp_path / "m.pt", "model")
    subject.close(0)


def test_a_resumed_run_shows_each_step_once(tmp_path: Path) -> None:
    killed = begin(tmp_path)
    for episode in (1, 2, 3):
        killed.log(record(episode), 500 * episode)
    # resumed from a checkpoint after the first episode, and the second is another one now
    resumed = begin(tmp_path, elapsed=10.0)
    again = {**record(2), "train/episode_reward": 9.0}
    for step, row in ((500, record(1)), (1000, again)):
        resumed.log(row, step)
    resumed.close(0)
    assert points(tmp_path, "train/episode_reward") == [(500, 1.5), (1000, 9.0)]
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1


def test_files_of_before_that_could_not_be_deleted_are_purged(tmp_path: Path) -> None:
    killed = begin(tmp_path)
    for episode in (1, 2, 3):
        killed.log(record(episode), 500 * episode)
    (path,) = (tmp_path / "tensorboard").iterdir()
    content = path.read_bytes()
    begin(tmp_path).log(record(1), 500)
    path.write_bytes(content)
    assert points(tmp_path, "train/episode_reward") == [(500, 1.5)]


def test_wall_time_leaves_out_how_long_the_run_was_down(tmp_path: Path) -> None:
    subject = begin(tmp_path, elapsed=20.0)
    for episode in (1, 2, 3):
        subject.log(record(episode), 500 * episode)
    times = [event.wall_time for event in read(tmp_path).Scalars("train/episode_reward")]
    assert times[1] - times[0] == pytest.approx(10.0, abs=1e-3)
    assert times[2] - times[1] == pytest.approx(10.0, abs=1e-3)


def test_numbers_that_are_not_ordinary(tmp_path: Path) -> None:
    subject = begin(tmp_path)
    subject.log({"train/a": math.nan, "train/b": -math.inf, "train/c": 1e300, "train/d": None}, 1)
    found = read(tmp_path)
    assert set(found.Tags()["scalars"]) == {"train/a", "train/b", "train/c"}
    assert math.isnan(found.Scalars("train/a")[0].value)
    assert [found.Scalars(f"train/{name}")[0].value for name in "bc"] == [-math.inf, math.inf]


def test_a_disk_that_is_full_is_one_warning(tmp_path: Path) -> None:
    warnings: list[str] = []
    subject = begin(tmp_path, warnings)
    subject.log(record(1), 500)
    (path,) = (tmp_path / "tensorboard").iterdir()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 20, hard))
    try:
        for episode in (2, 3):
            subject.log(record(episode), 500 * episode)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    subject.log(record(4), 2000)
    subject.close(1)
    (warning,) = warnings
    assert "File too large" in warning
    assert points(tmp_path, "train/episode_reward") == [(500, 1.5)]


def test_a_folder_that_cannot_be_written_is_one_warning(tmp_path: Path) -> None:
    warnings: list[str] = []
    (tmp_path / "tensorboard").touch()
    assert begin(tmp_path, warnings) is None
    (warning,) = warnings
    assert "TensorBoard is off" in warning


def test_a_beginning_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: Any) -> None:
    begin(tmp_path).log(record(1), 500)
    before = list((tmp_path / "tensorboard").iterdir())

    def refuse(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(TensorboardTracker, "_write", refuse)
    warnings: list[str] = []
    assert begin(tmp_path, warnings) is None
    assert "No space left" in warnings[0]
    assert list((tmp_path / "tensorboard").iterdir()) == before


def test_without_tensorboard_there_is_one_warning(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    warnings: list[str] = []
    assert begin(tmp_path, warnings) is None
    (warning,) = warnings
    assert "pip install tensorboard" in warning
