"""The real W&B client in whole runs: offline over a resume, and against a server that fails."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from loopback import dying, hanging, refusing
from processes import Child, start, train

from difftori.monitoring.wandb_log import FLUSH_SECONDS
from difftori.training.signals import RESUME_EXIT_CODE
from runs import fingerprint, run_folder
from wandb_rows import client_files, sent_rows, wandb_records

INIT_TIMEOUT_SECONDS = 3
FINISH_TIMEOUT_SECONDS = 2


def train_with_wandb(log_dir: Path, mode: str, server: str, waits_at: int | None) -> int:
    """``waits_at``: environment step whose record is logged and nothing after it."""
    from difftori.monitoring import wandb_log
    from difftori.monitoring.metrics import Metrics

    log = Metrics.log

    def log_and_wait(self: Metrics, record: Any, category: Any) -> None:
        log(self, record, category)
        if record["env_step"] == waits_at:
            time.sleep(60)

    Metrics.log = log_and_wait  # type: ignore[method-assign]

    for name in [name for name in os.environ if name.startswith("WANDB")]:
        del os.environ[name]
    os.environ |= {
        "HOME": str(log_dir),
        "WANDB_API_KEY": "0" * 40,
        "WANDB_BASE_URL": server,
        "WANDB_ERROR_REPORTING": "false",
    }
    wandb_log.INIT_TIMEOUT_SECONDS = INIT_TIMEOUT_SECONDS
    wandb_log.FINISH_TIMEOUT_SECONDS = FINISH_TIMEOUT_SECONDS
    return train(log_dir, "use_wandb=true", f"wandb_mode={mode}", "save_model=false")


def start_with_wandb(
    log_dir: Path,
    mode: str,
    server: str = "http://127.0.0.1:9",
    waits_at: int | None = None,
    name: str = "log",
) -> Child:
    return start(train_with_wandb, log_dir, mode, server, waits_at, log=log_dir / name)


def results(folder: Path) -> dict[str, str]:
    return {name: digest for name, digest in fingerprint(folder).items() if "model.pt" not in name}


def test_offline_each_environment_step_is_sent_once_over_a_kill_and_a_stop(
    tmp_path: Path, finished_run: Path
) -> None:
    killed = start_with_wandb(tmp_path, "offline", waits_at=128, name="killed")
    killed.wait_for(lambda: "episode 1" in killed.out)
    time.sleep(2 * FLUSH_SECONDS)
    killed.signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    stopped = start_with_wandb(tmp_path, "offline", name="stopped")
    stopped.wait_for(lambda: "episode 3" in stopped.out)
    stopped.signal(signal.SIGTERM)
    assert stopped.wait() == RESUME_EXIT_CODE
    assert start_with_wandb(tmp_path, "offline", name="last").wait() == 0
    folder = run_folder(tmp_path)
    assert results(folder) == results(finished_run)

    rows = sent_rows(folder)
    train_steps = [row["env_step"] for row in rows if "train/episode_reward" in row]
    eval_steps = [row["env_step"] for row in rows if "eval/episode_reward" in row]
    assert train_steps == [128, 256, 384, 512]
    assert eval_steps == [256, 512]
    assert [row["_step"] for row in rows] == [128, 256, 257, 384, 512, 513]
    records = [record for path in client_files(folder) for record in wandb_records(path)]
    begun = [record.run.run_id for record in records if record.HasField("run")]
    assert len(begun) == 3
    assert len(set(begun)) == 1


@pytest.mark.parametrize("server", [refusing, hanging])
def test_a_server_that_cannot_be_used_leaves_the_training_as_it_is(
    tmp_path: Path, finished_run: Path, server: Callable[[], AbstractContextManager[str]]
) -> None:
    with server() as address:
        child = start_with_wandb(tmp_path, "online", address)
        assert child.wait(90) == 0, child.err
    folder = run_folder(tmp_path)
    assert results(folder) == results(finished_run)
    (warning,) = child.err.splitlines()
    assert "kept offline" in warning
    assert "wandb sync" in warning
    assert [row["env_step"] for row in sent_rows(folder)] == [128, 256, 256, 384, 512, 512]


def test_a_server_that_dies_midway_leaves_the_training_as_it_is(
    tmp_path: Path, finished_run: Path
) -> None:
    seen: list[str] = []
    with dying(seen) as address:
        child = start_with_wandb(tmp_path, "online", address)
        assert child.wait(90) == 0, child.err
    assert any("file_stream" in path for path in seen), seen
    assert "kept offline" not in child.err
    assert "Traceback" not in child.err
    folder = run_folder(tmp_path)
    assert results(folder) == results(finished_run)
