"""Weights & Biases: one W&B run for a run folder, also over kills and resumes."""

import json
import logging
import re
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import wandb

from difftori.checkpoints.files import write_bytes
from difftori.config import Config
from difftori.monitoring.status import describe
from difftori.monitoring.trackers import Tracker

INIT_TIMEOUT_SECONDS = 30
FINISH_TIMEOUT_SECONDS = 60
FLUSH_SECONDS = 1.0
"""between writes of W&B's own file: what a SIGKILL takes from it"""
FILE_NAME = "wandb_run.json"
ARTIFACT_NAME_LENGTH = 128
"""characters, the most that W&B takes"""
PLACES = {"train": 0, "eval": 1, "video": 2}
"""of a category among the rows of one env step; an episode takes more env steps than places"""

logger = logging.getLogger(__name__)


def start_wandb(config: Config, name: str) -> "WandbLog":
    """The run's W&B run, begun or gone on with; its own files go to the run folder's ``wandb/``.

    Never asks on the terminal. Where the server cannot be used within ``INIT_TIMEOUT_SECONDS``,
    the records are kept offline, after a warning.

    Raises:
        Exception: of any kind, if the run cannot be kept offline either.
    """
    if config.wandb.wandb_mode == "offline":
        return _begin(config, name, "offline")
    # silent, because greeting the user by name would wait for the server
    wandb.setup(wandb.Settings(silent=True))
    try:
        if not wandb.login(prompt=False, verify=False):
            raise wandb.Error("nobody is logged in; `wandb login` does it, once on this machine")
        return _begin(config, name, "online")
    except Exception as error:
        # its background process still holds the run's id
        wandb.teardown()
        log = _begin(config, name, "offline")
        logger.warning(
            f"W&B cannot be used online: {describe(error)}. This run's records are kept offline; "
            f"send them later with `wandb sync {log.run_folder}`"
        )
        return log


def _begin(config: Config, name: str, mode: Literal["online", "offline"]) -> "WandbLog":
    run = config.run
    state_path = run.folder / FILE_NAME
    state = _read_state(state_path)
    own_tags = (run.task, run.modality, run.mode, run.preset)
    wandb_run = wandb.init(
        project=config.wandb.wandb_project,
        entity=config.wandb.wandb_entity,
        mode=mode,
        id=state["id"],
        resume="allow",
        name=name,
        group=config.wandb.wandb_group,
        tags=list(dict.fromkeys([*own_tags, *config.wandb.wandb_tags])),
        job_type="train",
        config=config.flat(),
        dir=str(run.folder),
        settings=wandb.Settings(
            init_timeout=INIT_TIMEOUT_SECONDS,
            finish_timeout=FINISH_TIMEOUT_SECONDS,
            silent=True,
            # the progress bar's control codes have no place in a log
            console="off",
            allow_val_change=True,
            x_transaction_log_flush_interval=FLUSH_SECONDS,
        ),
    )
    wandb_run.define_metric("env_step", hidden=True)
    wandb_run.define_metric("*", step_metric="env_step")
    return WandbLog(wandb_run, state, state_path)


def _read_state(path: Path) -> dict[str, Any]:
    """The W&B run's ``id``, and the ``next_row`` that it is to be sent; new ones if need be."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        state = json.loads(path.read_text())
        return {"id": str(state["id"]), "next_row": int(state["next_row"])}
    state = {"id": secrets.token_hex(4), "next_row": 0}
    write_bytes(path, json.dumps(state).encode())
    return state


class WandbLog(Tracker):
    """One W&B run, which gets each row once.

    W&B numbers the rows of a run, and they must rise. Here a row's number is its env step plus
    its category's place, so that a record that is made again after a resume has the number that
    it had, and is left out. The file beside the run says how far the rows have been sent.
    """

    name = "W&B"

    def __init__(self, run: wandb.Run, state: dict[str, Any], state_path: Path) -> None:
        """``state`` is what ``state_path`` holds."""
        self._run = run
        self._state = state
        self._state_path = state_path

    @property
    def run_folder(self) -> Path:
        """Where W&B's client keeps this process's part of the run."""
        return Path(self._run.dir).parent

    def log(self, record: Mapping[str, Any], category: str, env_step: int) -> None:
        row = env_step + PLACES[category]
        if row < self._state["next_row"]:
            return
        self._state["next_row"] = row + 1
        # a disk that refuses it costs at most a row that W&B gets twice, after a kill
        with suppress(OSError):
            write_bytes(self._state_path, json.dumps(self._state).encode())
        self._run.log({**record, "env_step": env_step}, step=row, commit=True)

    def video(self, path: Path, env_step: int) -> None:
        self.log({"eval/video": wandb.Video(str(path), format="mp4")}, "video", env_step)

    def summary(self, values: Mapping[str, Any]) -> None:
        self._run.summary.update(dict(values))

    def artifact(self, path: Path, name: str) -> None:
        name_there = re.sub(r"[^A-Za-z0-9_.-]", "-", name)[:ARTIFACT_NAME_LENGTH]
        artifact = wandb.Artifact(name_there, type="model")
        artifact.add_file(str(path))
        self._run.log_artifact(artifact)

    def close(self, exit_code: int) -> None:
        self._run.finish(exit_code=exit_code)
