"""Records on disk: whole, in order, once, and as many as the checkpoint says."""

import csv
import json
import os
import resource
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from difftori.monitoring import metrics as metrics_module
from difftori.monitoring.console import ConsoleReporter
from difftori.monitoring.metrics import Metrics, RecordFile


class RecordingTracker:
    def __init__(self) -> None:
        self.rows: list[tuple[dict[str, Any], int]] = []
        self.other: list[tuple[Any, ...]] = []

    def log(self, record: Mapping[str, Any], step: int) -> None:
        self.rows.append((dict(record), step))

    def summary(self, values: Mapping[str, Any]) -> None:
        self.other.append(("summary", dict(values)))

    def video(self, path: Path, step: int) -> None:
        self.other.append(("video", path, step))

    def artifact(self, path: Path, name: str) -> None:
        self.other.append(("artifact", path, name))

    def close(self, exit_code: int) -> None:
        self.other.append(("close", exit_code))


class Screen:
    """A console without a terminal, and what it showed."""

    def __init__(self) -> None:
        self.out, self.err = StringIO(), StringIO()
        self.console = ConsoleReporter(self.out, self.err)

    @property
    def warnings(self) -> list[str]:
        return self.err.getvalue().splitlines()


def train(episode: int, **more: Any) -> dict[str, Any]:
    return {"episode": episode, "env_step": 500 * episode, "episode_reward": 1.5, **more}


def lines(path: Path) -> list[dict[str, Any]]:
    text = path.read_text()
    assert text == "" or text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


@contextmanager
def file_limit(size: int) -> Iterator[None]:
    """No file can grow beyond ``size`` bytes: a write that crosses it is cut short, as on a full
    disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_one_call_reaches_every_place(tmp_path: Path) -> None:
    screen, tracker = Screen(), RecordingTracker()
    metrics = Metrics(tmp_path, console=screen.console, trackers=[tracker])
    metrics.log(train(1, elapsed_seconds=192.0), "train")
    metrics.log({"env_step": 500, "episode_reward": 2.0, "episode_success": True}, "eval")

    rows = lines(tmp_path / "metrics.jsonl")
    assert list(rows[0]) == ["category", "episode", "env_step", "episode_reward", "elapsed_seconds"]
    assert [row["category"] for row in rows] == ["train", "eval"]
    with (tmp_path / "eval.csv").open() as file:
        assert list(csv.reader(file)) == [
            ["env_step", "episode_reward", "episode_success"],
            ["500", "2.0", "1"],
        ]
    shown = screen.out.getvalue().splitlines()
    assert " ".join(shown[0].split()) == "train episode 1 env_step 500 reward 1.5 3m12s"
    assert " ".join(shown[1].split()) == "eval env_step 500 reward 2.0 success 1.00"
    expected = {"train/episode": 1, "train/episode_reward": 1.5, "train/elapsed_seconds": 192.0}
    assert tracker.rows[0] == (expected, 500)
    assert tracker.rows[1] == ({"eval/episode_reward": 2.0, "eval/episode_success": True}, 500)


def test_what_is_not_finite_stays_valid_json(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path, console=Screen().console)
    metrics.log({"env_step": 1, "loss": float("nan"), "norm": float("-inf"), "ok": 1.0}, "train")
    (row,) = lines(tmp_path / "metrics.jsonl")
    assert row == {
        "category": "train",
        "env_step": 1,
        "loss": None,
        "norm": None,
        "ok": 1.0,
        "non_finite": ["loss", "norm"],
    }


def test_numpy_numbers_are_numbers(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path, console=Screen().console)
    record: Any = {"env_step": 1, "a": np.float64(np.inf), "b": np.float64(2.0)}
    metrics.log(record, "train")
    assert lines(tmp_path / "metrics.jsonl")[0] | {"category": "train"} == {
        "category": "train", "env_step": 1, "a": None, "b": 2.0, "non_finite": ["a"]
    }  # fmt: skip


def test_a_record_without_a_step_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="env_step"):
        Metrics(tmp_path, console=Screen().console).log({"loss": 1.0}, "train")


def test_resume_keeps_as_many_records_as_the_checkpoint_knows(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path, console=Screen().console)
    evaluation = {"env_step": 0, "episode_reward": 1.0, "episode_success": 0.0}
    metrics.log(evaluation, "eval")
    metrics.log(train(1, elapsed_seconds=1.23456), "train")
    state = metrics.state_dict()
    assert state == {"metrics_records": 2, "eval_records": 1}
    metrics.log(train(2, elapsed_seconds=2.5), "train")
    metrics.log(evaluation, "eval")
    for name in ("metrics.jsonl", "eval.csv"):
        with (tmp_path / name).open("a") as file:
            file.write('{"torn')

    screen = Screen()
    resumed = Metrics(tmp_path, console=screen.console)
    resumed.load_state_dict(state)
    assert resumed.last_record_value("train", "elapsed_seconds") == 1.23456
    assert resumed.last_record_value("eval", "elapsed_seconds") is None
    resumed.log(train(2, elapsed_seconds=9.0), "train")
    resumed.log(evaluation, "eval")
    assert [row.get("episode") for row in lines(tmp_path / "metrics.jsonl")] == [None, 1, 2, None]
    assert (tmp_path / "eval.csv").read_text().count("\n") == 3
    assert resumed.state_dict() == {"metrics_records": 4, "eval_records": 2}
    assert screen.warnings == []


def test_a_run_that_starts_from_nothing_drops_what_is_there(tmp_path: Path) -> None:
    for _ in range(2):
        metrics = Metrics(tmp_path, console=Screen().console)
        metrics.load_state_dict({"metrics_records": 0, "eval_records": 0})
        metrics.log({"env_step": 0, "episode_reward": 1.0}, "eval")
    assert len(lines(tmp_path / "metrics.jsonl")) == 1
    assert (tmp_path / "eval.csv").read_text().splitlines()[1:] == ["0,1.0,"]


def test_missing_records_are_a_warning_with_both_numbers(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path, console=Screen().console)
    metrics.log(train(1), "train")
    screen = Screen()
    resumed = Metrics(tmp_path, console=screen.console)
    resumed.load_state_dict({"metrics_records": 7, "eval_records": 0})
    assert len(screen.warnings) == 1
    assert "holds 1 records" in screen.warnings[0]
    assert "knows 7" in screen.warnings[0]
    resumed.log(train(2), "train")
    assert resumed.state_dict()["metrics_records"] == len(lines(tmp_path / "metrics.jsonl")) == 2


def test_a_torn_line_of_a_killed_run_is_dropped_without_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"category": "train", "env_step": 1}\n{"categ')
    Metrics(tmp_path, console=Screen().console).log(train(2), "train")
    assert [row["env_step"] for row in lines(path)] == [1, 1000]


def test_a_full_disk_is_one_warning_and_no_loss(tmp_path: Path) -> None:
    screen, path = Screen(), tmp_path / "metrics.jsonl"
    metrics = Metrics(tmp_path, console=screen.console)
    metrics.log(train(1), "train")
    with file_limit(path.stat().st_size + 10):
        for episode in (2, 3, 4):
            metrics.log(train(episode), "train")
    assert len(screen.warnings) == 1
    assert str(path) in screen.warnings[0]
    assert "File too large" in screen.warnings[0]
    assert metrics.state_dict()["metrics_records"] == 4
    assert metrics.last_record_value("train", "episode") == 4
    metrics.log(train(5), "train")
    assert [row["episode"] for row in lines(path)] == [1, 2, 3, 4, 5]
    assert "3 records caught up" in screen.out.getvalue()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_no_space_left(tmp_path: Path) -> None:
    screen, path = Screen(), tmp_path / "metrics.jsonl"
    metrics = Metrics(tmp_path, console=screen.console)
    path.symlink_to("/dev/full")
    metrics.log(train(1), "train")
    assert "No space left on device" in screen.warnings[0]
    path.unlink()
    metrics.close()
    assert len(lines(path)) == 1


def test_a_folder_that_goes_away_is_a_warning(tmp_path: Path) -> None:
    screen, folder = Screen(), tmp_path / "gone"
    metrics = Metrics(folder, console=screen.console)
    metrics.log(train(1), "train")
    metrics.log(train(2), "train")
    assert len(screen.warnings) == 1
    metrics.close()
    assert "2 records never reached" in screen.warnings[-1]


def test_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_module, "PENDING_RECORDS", 3)
    screen = Screen()
    file = RecordFile(tmp_path / "gone" / "x", screen.console)
    for number in range(6):
        file.append(str(number))
    assert (file.pending, file.records) == (3, 3)
    assert len(screen.warnings) == 2
    file.path.parent.mkdir()
    file.flush()
    assert file.path.read_text() == "3\n4\n5\n"


def test_a_file_that_cannot_be_read_is_not_cut(tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / "x"
    path.write_text("1\n2\n")

    def refuse(*_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuse)
        file = RecordFile(path, Screen().console)
        file.truncate(2)
    file.append("3")
    assert path.read_text() == "1\n2\n3\n"
    assert file.records == 3


def test_a_cut_that_fails_is_made_up_before_the_next_record(
    tmp_path: Path, monkeypatch: Any
) -> None:
    path = tmp_path / "x"
    path.write_text("1\n2\n3\n")

    def refuse(*_: Any) -> None:
        raise OSError(30, "Read-only file system")

    screen = Screen()
    file = RecordFile(path, screen.console)
    with monkeypatch.context() as patch:
        patch.setattr(os, "truncate", refuse)
        file.truncate(1)
    assert "Read-only file system" in screen.warnings[0]
    file.append("two")
    assert path.read_text() == "1\ntwo\n"


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.integers(0, 40), st.one_of(st.none(), st.integers(0, 60)), st.booleans()),
        max_size=12,
    )
)
def test_any_failures_leave_whole_lines_in_order(
    steps: list[tuple[int, int | None, bool]],
) -> None:
    """Each step appends a line, with or without a size limit, and may restart or cut the file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x"
        file, expected = RecordFile(path, Screen().console, header="h"), []
        for number, (length, limit, restart) in enumerate(steps):
            line = f"{number}:" + "x" * length
            with file_limit(1_000_000 if limit is None else limit):
                file.append(line)
            expected.append(line)
            if restart:
                file.flush()
                file = RecordFile(path, Screen().console, header="h")
                expected = expected[: number + 1 - number % 2]
                file.truncate(len(expected))
            assert file.records == len(expected)
        file.flush()
        text = path.read_text() if expected else "h\n"
        assert text == "\n".join(["h", *expected]) + "\n"


def test_a_tracker_that_comes_later_gets_the_earlier_records(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path, console=Screen().console)
    metrics.log(train(1, loss=float("inf"), grad_norm_a=3.0), "train")
    metrics.log({"env_step": 500, "episode_reward": 2.0}, "eval")
    (tmp_path / "videos").mkdir()
    video = tmp_path / "videos" / "eval_000000500.mp4"
    video.touch()
    metrics.log(train(2), "train")
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write("[1]\n3\n{}\nnonsense\n")
    tracker = RecordingTracker()
    metrics.attach([tracker])
    metrics.log(train(3), "train")
    steps = [(next(iter(row)).split("/")[0], step) for row, step in tracker.rows]
    assert steps == [("train", 500), ("eval", 500), ("train", 1000), ("train", 1500)]
    first = tracker.rows[0][0]
    assert np.isnan(first.pop("train/loss"))
    assert first == {
        "train/episode": 1,
        "train/episode_reward": 1.5,
        "train/grad_norm_a": 3.0,
        "planner/grad_norm_a": 3.0,
    }
    assert tracker.other == [("video", video, 500)]


def test_the_rest_is_handed_to_the_trackers(tmp_path: Path) -> None:
    tracker = RecordingTracker()
    metrics = Metrics(tmp_path, console=Screen().console, trackers=[tracker])
    metrics.video(tmp_path / "v.mp4", 5)
    metrics.artifact(tmp_path / "w", "weights")
    metrics.summary({"best": 1.0})
    metrics.close(3)
    assert tracker.other == [
        ("video", tmp_path / "v.mp4", 5),
        ("artifact", tmp_path / "w", "weights"),
        ("summary", {"best": 1.0}),
        ("close", 3),
    ]
