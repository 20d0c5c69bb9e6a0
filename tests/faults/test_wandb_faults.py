"""The real W&B client in whole runs: offline over a kill, and with a server that says nothing."""

import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

from processes import start, train

from runs import fingerprint, run_folder
from wandb_rows import client_files, sent_rows, wandb_records


def train_with_wandb(log_dir: Path, mode: str, server: str, waits_at: int | None) -> int:
    """``waits_at``: environment step whose record is logged and nothing after it."""
    from difftori.monitoring import trackers
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
    if mode == "online":
        trackers.INIT_TIMEOUT_SECONDS = 2
    return train(log_dir, "use_wandb=true", f"wandb_mode={mode}", "save_model=false")


def results(folder: Path) -> dict[str, str]:
    return {name: digest for name, digest in fingerprint(folder).items() if "model.pt" not in name}


def test_offline_a_killed_run_goes_on_in_the_same_wandb_run(
    tmp_path: Path, finished_run: Path
) -> None:
    command = (train_with_wandb, tmp_path, "offline", "http://127.0.0.1:9")
    killed = start(*command, 256, log=tmp_path / "killed")
    killed.wait_for(lambda: "episode 2" in killed.out)
    killed.signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert start(*command, None, log=tmp_path / "last").wait() == 0
    folder = run_folder(tmp_path)
    assert results(folder) == results(finished_run)
    rows = sent_rows(folder)
    assert {r["env_step"] for r in rows if "train/episode_reward" in r} >= {256, 384, 512}
    assert [row["_step"] for row in rows][-4:] == [257, 384, 512, 513]
    records = [record for path in client_files(folder) for record in wandb_records(path)]
    begun = [record.run.run_id for record in records if record.HasField("run")]
    assert set(begun) == {(folder / "wandb_id.txt").read_text()}


def test_a_server_that_says_nothing_leaves_the_training_as_it_is(
    tmp_path: Path, finished_run: Path
) -> None:
    # the system completes connections that nobody has accepted yet
    with socket.create_server(("127.0.0.1", 0), backlog=100) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        child = start(train_with_wandb, tmp_path, "online", address, None, log=tmp_path / "log")
        assert child.wait(90) == 0, child.err
    assert results(run_folder(tmp_path)) == results(finished_run)
    (warning,) = child.err.splitlines()
    assert warning.startswith("warning: W&B is off: ")
