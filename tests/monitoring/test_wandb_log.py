"""W&B: the real client offline, read back from its own files; and what can fail."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb

from builders import tiny_config
from difftori.config import Config
from difftori.monitoring import wandb_log
from difftori.monitoring.wandb_log import WandbLog, start_wandb
from wandb_rows import client_files, sent_rows, wandb_records


@pytest.fixture(autouse=True)
def client(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """W&B's client as on a machine that never saw it; it goes when the test is over."""
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_MODE", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    wandb.teardown()
    yield
    wandb.teardown()


def new_config(tmp_path: Path, **keys: Any) -> Config:
    """Of a run whose folder is there."""
    settings: dict[str, Any] = {"wandb_mode": "offline", "wandb_tags": ("paper",), **keys}
    config = tiny_config("mode=default", log_dir=str(tmp_path / "logs"), seed=7, **settings)
    config.run.folder.mkdir(parents=True)
    return config


def log_all(log: WandbLog, records: list[tuple[str, int]]) -> None:
    for category, step in records:
        log.log({f"{category}/reward": float(step), f"{category}/x": float("nan")}, category, step)


def close(log: WandbLog, exit_code: int = 0) -> None:
    """And wait until the client's own process has written all."""
    log.close(exit_code)
    wandb.teardown()


def test_a_resumed_run_sends_each_row_once(tmp_path: Path) -> None:
    config = new_config(tmp_path)
    first = start_wandb(config, "n")
    log_all(first, [("train", 500), ("eval", 500), ("train", 1000)])
    close(first, 1)
    # resumed from a checkpoint at 500: the records of 1000 are made again
    second = start_wandb(config, "n")
    log_all(second, [("train", 1000), ("eval", 1000), ("train", 1500)])
    close(second)
    rows = sent_rows(config.run.folder)
    assert [row["_step"] for row in rows] == [500, 501, 1000, 1001, 1500]
    assert [row["env_step"] for row in rows] == [500, 500, 1000, 1000, 1500]
    assert [row.get("train/reward") for row in rows] == [500, None, 1000, None, 1500]
    assert [row.get("eval/reward") for row in rows] == [None, 500, None, 1000, None]
    paths = client_files(config.run.folder)
    begun = [r.run.run_id for path in paths for r in wandb_records(path) if r.HasField("run")]
    assert len(begun) == 2
    assert set(begun) == {json.loads((config.run.folder / "wandb_run.json").read_text())["id"]}


def test_what_the_client_is_told(tmp_path: Path) -> None:
    config = new_config(tmp_path)
    film = tmp_path / "v.mp4"
    film.write_bytes(b"not looked at")
    log = start_wandb(config, "a-name")
    log_all(log, [("eval", 2000)])
    log.video(film, 2000)
    log.artifact(film, "a model")
    log.summary({"best": 2.0})
    close(log)
    (path,) = client_files(config.run.folder)
    records = wandb_records(path)
    (begun,) = [record.run for record in records if record.HasField("run")]
    group = "cartpole-swingup-state-default-default"
    assert (begun.display_name, begun.job_type, begun.run_group) == ("a-name", "train", group)
    assert list(begun.tags) == ["cartpole-swingup", "state", "default", "full", "paper"]
    told = {item.key: json.loads(item.value_json) for item in begun.config.update}
    assert told["seed"] == 7
    metrics = [record.metric for record in records if record.HasField("metric")]
    assert any(m.glob_name == "*" and m.step_metric == "env_step" for m in metrics)
    assert [record.exit.exit_code for record in records if record.HasField("exit")] == [0]
    kept = [record.artifact for record in records if record.HasField("artifact")]
    assert [(artifact.name, artifact.type) for artifact in kept] == [("a-model", "model")]
    last = sent_rows(config.run.folder)[-1]
    assert (last["_step"], last["env_step"]) == (2002, 2000)
    assert any(key.startswith("eval/video") for key in last)


@pytest.mark.parametrize(
    ("key", "reason"),
    [(None, "nobody is logged in"), ("short", "API key")],  # refused before anything is sent
)
def test_what_cannot_go_online_is_kept_offline(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    key: str | None,
    reason: str,
) -> None:
    if key is not None:
        monkeypatch.setenv("WANDB_API_KEY", key)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    config = new_config(tmp_path, wandb_mode="online")
    log = start_wandb(config, "n")
    log_all(log, [("train", 500)])
    close(log)
    (warning,) = [r.message for r in caplog.records if r.levelno == logging.WARNING]
    assert reason in warning
    assert f"wandb sync {log.run_folder}" in warning
    assert [row["env_step"] for row in sent_rows(config.run.folder)] == [500]


def test_a_disk_that_refuses_the_state_stops_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = new_config(tmp_path)
    log = start_wandb(config, "n")

    def refuse(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(wandb_log, "write_bytes", refuse)
    log_all(log, [("train", 500), ("train", 1000)])
    close(log)
    assert [row["env_step"] for row in sent_rows(config.run.folder)] == [500, 1000]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"id": "abcd1234"}', "null"])
def test_a_spoiled_state_begins_a_new_run(tmp_path: Path, text: str) -> None:
    path = tmp_path / "wandb_run.json"
    path.write_text(text)
    state = wandb_log._read_state(path)
    assert state["next_row"] == 0
    assert len(state["id"]) == 8
    assert wandb_log._read_state(path) == state
