"""The services that show a run while it goes on; the run itself never depends on one of them."""

import logging
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from difftori.checkpoints.files import write_bytes
from difftori.config import Config
from difftori.monitoring.status import describe

PANEL = (
    "plan_iterations",
    "plan_return_before",
    "plan_return_after",
    "plan_return_gain",
    "plan_gradient_norm",
    "share_at_bound",
    "share_zero_gradients",
    "grad_norm_a",
    "plans_not_finite",
    "plans_dropped",
    "replayed_plans_dropped",
)
"""what tells how well the planner works; shown once more under ``planner/``"""
INIT_TIMEOUT_SECONDS = 30
FINISH_TIMEOUT_SECONDS = 60
ROWS = {"train": 0, "eval": 1, "video": 2}
"""of a category among W&B's rows of one env step; episodes of one or two lose some of theirs"""

logger = logging.getLogger(__name__)


class Tracker:
    """Shows records, videos and weights somewhere. Each method may raise anything.

    What a tracker has no place for, it leaves out.
    """

    name: ClassVar[str]
    """as users know it"""

    def log(self, record: Mapping[str, Any], category: str, env_step: int) -> None:
        """Show one record, its names as in ``train/episode_reward``."""

    def video(self, path: Path, env_step: int) -> None:
        """Show an mp4 file."""

    def artifact(self, path: Path) -> None:
        """Keep the file of weights."""

    def close(self, exit_code: int) -> None:
        """Send what is left; 0 marks the run as finished, anything else as failed."""


class WandbTracker(Tracker):
    """One W&B run for a run folder, also over kills and resumes.

    W&B numbers the rows of a run, and they must rise: it leaves out a row whose number it has. A
    row's number is its env step plus its category's place, so that a record that is made again
    after a resume has the number that it had.
    """

    name = "W&B"

    def __init__(self, config: Config, next_env_step: int) -> None:
        """Begin, or go on with what the run folder names; never asks on the terminal.

        Without a login the records are kept offline. Raises any kind of exception.
        """
        import wandb  # here, because it takes a second, and most runs do not need it

        # silent, because greeting the user by name would wait for the server
        wandb.setup(wandb.Settings(silent=True))
        mode = config.wandb.wandb_mode
        if mode == "online" and not wandb.login(prompt=False, verify=False):
            mode = "offline"
            logger.warning(
                "nobody is logged in to W&B, `wandb login` does it; this run's records are kept "
                f"offline, `wandb sync {config.run.folder}/wandb/offline-*` sends them later"
            )
        run = config.run
        id_path = run.folder / "wandb_id.txt"
        if not id_path.exists():
            write_bytes(id_path, secrets.token_hex(4).encode())
        own_tags = (run.task, run.modality, run.mode, run.preset, run.agent)
        self._run = wandb.init(
            project=config.wandb.wandb_project,
            entity=config.wandb.wandb_entity,
            mode=mode,
            id=id_path.read_text(),
            resume="allow",
            name=f"{run.task}-{run.modality}-{run.mode}-{run.exp_name}-{run.seed}",
            group=config.wandb.wandb_group,
            tags=list(dict.fromkeys([*own_tags, *config.wandb.wandb_tags])),
            job_type="train",
            config=config.flat(),
            dir=str(run.folder),
            settings=wandb.Settings(
                init_timeout=INIT_TIMEOUT_SECONDS,
                finish_timeout=FINISH_TIMEOUT_SECONDS,
                silent=True,
                console="off",  # the progress bar's control codes have no place in a log
                allow_val_change=True,
            ),
        )
        self._run.define_metric("env_step", hidden=True)
        self._run.define_metric("*", step_metric="env_step")
        self._run.define_metric("eval/episode_reward", step_metric="env_step", summary="last,max")

    def log(self, record: Mapping[str, Any], category: str, env_step: int) -> None:
        self._run.log({**record, "env_step": env_step}, step=env_step + ROWS[category], commit=True)

    def video(self, path: Path, env_step: int) -> None:
        import wandb

        self.log({"eval/video": wandb.Video(str(path), format="mp4")}, "video", env_step)

    def artifact(self, path: Path) -> None:
        self._run.log_artifact(str(path), name=f"model-{self._run.id}", type="model")

    def close(self, exit_code: int) -> None:
        self._run.finish(exit_code=exit_code)


class TensorboardTracker(Tracker):
    """One event file for each process, in the run folder's ``tensorboard/``."""

    name = "TensorBoard"

    def __init__(self, config: Config, next_env_step: int) -> None:
        """Hide what a killed process wrote from ``next_env_step`` on: it is done again.

        Raises OSError if the folder cannot be written.
        """
        from torch.utils.tensorboard import SummaryWriter  # here, because it takes a second

        folder = config.run.folder / "tensorboard"
        self._writer = SummaryWriter(str(folder), purge_step=next_env_step)

    def log(self, record: Mapping[str, Any], category: str, env_step: int) -> None:
        for tag, value in record.items():
            if isinstance(value, int | float):
                self._writer.add_scalar(tag, value, env_step)
        self._writer.flush()  # on disk before the next record, so that a kill loses none

    def close(self, exit_code: int) -> None:
        self._writer.close()


def named(record: Mapping[str, Any], category: str) -> dict[str, Any]:
    """A record as trackers show it: each name behind its panel's, without the step."""
    shown = {f"{category}/{key}": value for key, value in record.items() if key != "env_step"}
    if category == "train":
        shown |= {f"planner/{key}": record[key] for key in PANEL if key in record}
    return shown


def start_trackers(config: Config, next_env_step: int) -> list[Tracker]:
    """Those that the config asks for; a warning for each that cannot start.

    Records from ``next_env_step`` on are still to come; those before it were sent by an earlier
    process, if the tracker was on then.
    """
    trackers: list[Tracker] = []
    switches: list[tuple[bool, type[WandbTracker] | type[TensorboardTracker]]] = [
        (config.wandb.use_wandb, WandbTracker),
        (config.tensorboard.use_tensorboard, TensorboardTracker),
    ]
    for switched_on, kind in switches:
        if switched_on:
            try:
                trackers.append(kind(config, next_env_step))
            except Exception as error:  # of its libraries, of the disk: none ends a run
                logger.warning(f"{kind.name} is off: {describe(error)}")
    return trackers
