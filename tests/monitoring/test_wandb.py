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
from difftori.monitoring.trackers import WandbTracker
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


def log_all(log: WandbTracker, records: list[tuple[str, int]]) -> None:
    for category, step in records:
        log.log({f"{category}/reward": float(step), f"{category}/x": float("nan")}, category, step)


def close(log: WandbTracker, exit_code: int = 0) -> None:
    """And wait until the client's own process has written all."""
    log.close(exit_code)
    wandb.teardown()


def test_what_the_client_is_told(tmp_path: Path) -> None:
    config = new_config(tmp_path)
    film = tmp_path / "v.mp4"
    film.write_bytes(b"not looked at")
    log = WandbTracker(config, 0)
    log_all(log, [("eval", 2000)])
    log.video(film, 2000)
    log.artifact(film)
    close(log)
    (path,) = client_files(config.run.folder)
    records = wandb_records(path)
    (begun,) = [record.run for record in records if record.HasField("run")]
    group = "cartpole-swingup-state-default-default"
    name = "cartpole-swingup-state-default-default-7"
    assert (begun.display_name, begun.job_type, begun.run_group) == (name, "train", group)
    assert list(begun.tags) == [
        "cartpole-swingup",
        "state",
        "default",
        "full",
        "published",
        "paper",
    ]
    told = {item.key: json.loads(item.value_json) for item in begun.config.update}
    assert told["seed"] == 7
    metrics = [record.metric for record in records if record.HasField("metric")]
    assert any(m.glob_name == "*" and m.step_metric == "env_step" for m in metrics)
    assert [record.exit.exit_code for record in records if record.HasField("exit")] == [0]
    kept = [record.artifact for record in records if record.HasField("artifact")]
    assert [(artifact.name, artifact.type) for artifact in kept] == [
        (f"model-{begun.run_id}", "model")
    ]
    last = sent_rows(config.run.folder)[-1]
    assert (last["_step"], last["env_step"]) == (2002, 2000)
    assert any(key.startswith("eval/video") for key in last)


def test_without_a_login_the_records_are_kept_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    config = new_config(tmp_path, wandb_mode="online")
    log = WandbTracker(config, 0)
    log_all(log, [("train", 500)])
    close(log)
    (warning,) = [r.message for r in caplog.records if r.levelno == logging.WARNING]
    assert "nobody is logged in" in warning
    assert f"wandb sync {config.run.folder}" in warning
    assert [row["env_step"] for row in sent_rows(config.run.folder)] == [500]
