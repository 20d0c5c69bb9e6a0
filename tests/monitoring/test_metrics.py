"""One call reaches every place, and a resumed run goes on where its checkpoint was taken."""

import csv
import errno
import json
import resource
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from difftori.monitoring.metrics import Metrics
from difftori.monitoring.trackers import Tracker


class RecordingTracker(Tracker):
    name = "recording"

    def __init__(self, fails_at: int = 1000) -> None:
        """``fails_at``: number of the first row that it does not take."""
        self.fails_at = fails_at
        self.rows: list[tuple[dict[str, Any], int]] = []
        self.other: list[tuple[Any, ...]] = []

    def log(self, record: Mapping[str, Any], category: str, env_step: int) -> None:
        if len(self.rows) >= self.fails_at:
            raise ConnectionError("gone\nand a page more")
        self.rows.append((dict(record), env_step))

    def video(self, path: Path, env_step: int) -> None:
        self.other.append(("video", path, env_step))

    def artifact(self, path: Path) -> None:
        self.other.append(("artifact", path))

    def close(self, exit_code: int) -> None:
        self.other.append(("close", exit_code))


def train(episode: int, **more: Any) -> dict[str, Any]:
    return {"episode": episode, "env_step": 500 * episode, "episode_reward": 1.5, **more}


def lines(path: Path) -> list[dict[str, Any]]:
    text = path.read_text()
    assert text == "" or text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


class Clock:
    seconds = 1000.0


def stopped_clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", lambda: clock.seconds)
    return clock


def test_one_call_reaches_every_place(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO", "difftori")
    tracker = RecordingTracker()
    clock = stopped_clock(monkeypatch)
    metrics = Metrics(tmp_path)
    metrics.attach([tracker])
    clock.seconds += 192
    metrics.log(train(1), "train")
    metrics.log({"env_step": 500, "episode_reward": 2.0, "episode_success": True}, "eval")

    rows = lines(tmp_path / "metrics.jsonl")
    assert list(rows[0]) == ["category", "episode", "env_step", "episode_reward", "elapsed_seconds"]
    assert [row["category"] for row in rows] == ["train", "eval"]
    with (tmp_path / "eval.csv").open() as file:
        assert list(csv.reader(file)) == [
            ["env_step", "episode_reward", "episode_success"],
            ["500", "2.0", "1"],
        ]
    shown = [" ".join(line.split()) for line in caplog.messages]
    assert shown[0] == "train episode 1 env_step 500 reward 1.5 3m12s"
    assert shown[1] == "eval env_step 500 reward 2 success 1.00 3m12s"
    expected = {"train/episode": 1, "train/episode_reward": 1.5, "train/elapsed_seconds": 192.0}
    assert tracker.rows[0] == (expected, 500)
    expected = {"episode_reward": 2.0, "episode_success": True, "elapsed_seconds": 192.0}
    assert tracker.rows[1] == ({f"eval/{key}": value for key, value in expected.items()}, 500)


def test_what_is_not_finite_stays_valid_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped_clock(monkeypatch)
    record: Any = {"env_step": 1, "loss": float("nan"), "norm": np.float64(-np.inf), "ok": 1.0}
    Metrics(tmp_path).log(record, "train")
    (row,) = lines(tmp_path / "metrics.jsonl")
    assert row == {
        "category": "train",
        "env_step": 1,
        "loss": None,
        "norm": None,
        "ok": 1.0,
        "elapsed_seconds": 0.0,
        "non_finite": ["loss", "norm"],
    }


def test_resume_keeps_as_many_records_as_the_checkpoint_knows(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = stopped_clock(monkeypatch)
    metrics = Metrics(tmp_path)
    assert metrics.next_env_step == 0
    evaluation = {"env_step": 0, "episode_reward": 1.0, "episode_success": 0.0}
    metrics.log(evaluation, "eval")
    clock.seconds += 1.5
    metrics.log(train(1), "train")
    state = metrics.records
    assert state == 2
    clock.seconds += 2
    metrics.log(train(2), "train")
    metrics.log(evaluation, "eval")
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"torn')

    resumed = Metrics(tmp_path)
    resumed.truncate(state)
    assert resumed.next_env_step == 501
    clock.seconds += 3
    resumed.log(train(2), "train")
    resumed.log(evaluation, "eval")
    rows = lines(tmp_path / "metrics.jsonl")
    assert [row.get("episode") for row in rows] == [None, 1, 2, None]
    assert [row["elapsed_seconds"] for row in rows] == [0, 1.5, 4.5, 4.5]
    assert (tmp_path / "eval.csv").read_text().count("\n") == 3
    assert resumed.records == 4
    assert caplog.messages == []


def test_a_run_that_starts_from_nothing_drops_what_is_there(tmp_path: Path) -> None:
    for _ in range(2):
        metrics = Metrics(tmp_path)
        metrics.truncate(0)
        metrics.log({"env_step": 0, "episode_reward": 1.0}, "eval")
    assert len(lines(tmp_path / "metrics.jsonl")) == 1
    assert (tmp_path / "eval.csv").read_text().splitlines()[1:] == ["0,1.0,"]


def test_a_command_that_is_refused_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("whole\n")
    Metrics(tmp_path).close(1)
    assert (tmp_path / "metrics.jsonl").read_text() == "whole\n"


def test_lines_that_the_disk_spoiled_or_lost_stop_no_resume(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped_clock(monkeypatch)
    spoiled = ["[1]", "3", "{}", "nonsense", '{"category": "train", "env_step": 7}', "null"]
    spoiled += ['{"category": "train", "env_stap": 9}', '{"category": "eval", "env_step": null}']
    spoiled += ['{"category": "eval", "env_step": 9, "elapsed_seconds": []}']
    spoiled += ['{"category": [], "env_step": 9}']
    (tmp_path / "metrics.jsonl").write_text("\n".join(spoiled) + "\n")
    metrics = Metrics(tmp_path)
    metrics.truncate(len(spoiled) + 1)
    assert metrics.next_env_step == 8
    metrics.log(train(0), "train")
    last = (tmp_path / "metrics.jsonl").read_text().splitlines()[-1]
    assert json.loads(last)["elapsed_seconds"] == 0
    assert "holds 1 records, the checkpoint knows 11" in caplog.messages[0]


def test_evaluations_outlive_their_lost_records(tmp_path: Path) -> None:
    """Those of the checkpoint's time: later ones take place again."""
    metrics = Metrics(tmp_path)
    for step in (0, 100, 200, 300):
        metrics.log({"env_step": step, "episode_reward": float(step)}, "eval")
    first = (tmp_path / "metrics.jsonl").read_text().splitlines()[0]
    (tmp_path / "metrics.jsonl").write_text(first + "\n")
    resumed = Metrics(tmp_path)
    resumed.truncate(3, env_step=250)
    resumed.log({"env_step": 300, "episode_reward": 7.0}, "eval")
    rows = (tmp_path / "eval.csv").read_text().splitlines()[1:]
    assert rows == ["0,0.0,", "100,100.0,", "200,200.0,", "300,7.0,"]


def test_an_evaluation_outlives_its_spoiled_record(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = Metrics(tmp_path)
    for step in (0, 100, 200):
        metrics.log({"env_step": step, "episode_reward": float(step)}, "eval")
    path, before = tmp_path / "metrics.jsonl", (tmp_path / "eval.csv").read_bytes()
    first, second, third = path.read_text().splitlines()
    path.write_text(f"{first}\n{'?' * len(second)}\n{third}\n")
    Metrics(tmp_path).truncate(3, env_step=250)
    assert (tmp_path / "eval.csv").read_bytes() == before
    assert "holds 2 records, the checkpoint knows 3" in caplog.messages[0]


def test_the_last_evaluation_that_a_full_disk_refused_is_written_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = Metrics(tmp_path)
    metrics.log({"env_step": 0, "episode_reward": 1.0}, "eval")
    with monkeypatch.context() as patched:
        patched.setattr("difftori.monitoring.metrics.write_bytes", full_disk)
        metrics.log({"env_step": 100, "episode_reward": 2.0}, "eval")
    assert (tmp_path / "eval.csv").read_text().splitlines()[1:] == ["0,1.0,"]
    metrics.close()
    assert (tmp_path / "eval.csv").read_text().splitlines()[1:] == ["0,1.0,", "100,2.0,"]


def full_disk(path: Path, content: bytes) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_records_that_a_full_disk_refused_are_written_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A write that crosses the limit is cut short, as on a full disk."""
    metrics = Metrics(tmp_path)
    metrics.log(train(0), "train")
    metrics.log({"env_step": 0, "episode_reward": float("nan")}, "eval")
    full = (tmp_path / "metrics.jsonl").stat().st_size + 20
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (full, hard))
    try:
        for episode in (1, 2):
            metrics.log(train(episode), "train")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "metrics.jsonl was not written: File too large" in caplog.messages[0]
    metrics.log(train(3), "train")
    rows = lines(tmp_path / "metrics.jsonl")
    assert [row.get("episode") for row in rows] == [0, None, 1, 2, 3]
    evaluations = (tmp_path / "eval.csv").read_bytes()
    Metrics(tmp_path).truncate(5)
    assert (tmp_path / "eval.csv").read_bytes() == evaluations
    assert lines(tmp_path / "metrics.jsonl") == rows


def test_a_tracker_that_fails_is_one_warning_and_the_others_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    failing, other = RecordingTracker(fails_at=1), RecordingTracker()
    metrics = Metrics(tmp_path)
    metrics.attach([failing, other])
    for episode in range(4):
        metrics.log(train(episode), "train")
    metrics.close(1)
    (warning,) = caplog.messages
    assert "recording is off from here on: ConnectionError: gone;" in warning
    assert (len(failing.rows), len(other.rows)) == (1, 4)
    assert (failing.other, other.other) == ([], [("close", 1)])


def test_the_rest_is_handed_to_the_trackers(tmp_path: Path) -> None:
    tracker = RecordingTracker()
    metrics = Metrics(tmp_path)
    metrics.attach([tracker])
    metrics.video(tmp_path / "v.mp4", 5)
    metrics.artifact(tmp_path / "w")
    metrics.close(3)
    assert tracker.other == [
        ("video", tmp_path / "v.mp4", 5),
        ("artifact", tmp_path / "w"),
        ("close", 3),
    ]
