"""The services that show a run while it goes on; the run itself never depends on one of them."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from difftori.config import Config

PANEL = (
    "plan_iterations",
    "plan_return_before",
    "plan_return_after",
    "plan_return_gain",
    "share_at_bound",
    "share_zero_gradients",
    "grad_norm_a",
    "plans_not_finite",
    "plans_dropped",
    "replayed_plans_dropped",
)
"""what tells how well the planner works; shown once more under ``planner/``"""

logger = logging.getLogger(__name__)


class Tracker:
    """Shows records, videos and files somewhere. Each method may raise anything.

    What a tracker has no place for, it leaves out.
    """

    name: ClassVar[str]
    """as users know it"""

    def log(self, record: Mapping[str, Any], category: str, env_step: int) -> None:
        """Show one record, its names as in ``train/episode_reward``."""

    def summary(self, values: Mapping[str, Any]) -> None:
        """Set the numbers that stand for the whole run."""

    def video(self, path: Path, env_step: int) -> None:
        """Show an mp4 file."""

    def artifact(self, path: Path, name: str) -> None:
        """Keep a file under ``name``."""

    def close(self, exit_code: int) -> None:
        """Send what is left; 0 marks the run as finished, anything else as failed."""


def named(record: Mapping[str, Any], category: str) -> dict[str, Any]:
    """A record as trackers show it: each name behind its panel's, without the step."""
    shown = {f"{category}/{key}": value for key, value in record.items() if key != "env_step"}
    if category == "train":
        shown |= {f"planner/{key}": record[key] for key in PANEL if key in record}
    return shown


def run_name(config: Config) -> str:
    """What tells a run from all others, in one word."""
    run = config.run
    return f"{run.task}-{run.modality}-{run.mode}-{run.exp_name}-{run.seed}"


def start_trackers(config: Config, next_env_step: int) -> list[Tracker]:
    """Those that the config asks for; a warning for each that cannot start.

    Records from ``next_env_step`` on are still to come; those before it were sent by an earlier
    process, if the tracker was on then.
    """
    trackers: list[Tracker] = []

    def add(name: str, start: Callable[[], Tracker]) -> None:
        try:
            trackers.append(start())
        except ImportError as error:
            logger.warning(f"{name} is off: {error}; pip install -r requirements.txt")
        except Exception as error:  # of its own, of its libraries, of the disk: none ends a run
            logger.warning(f"{name} is off: {error}")

    # imported here, because each takes a second, and most runs need neither
    if config.wandb.use_wandb:

        def wandb() -> Tracker:
            from difftori.monitoring.wandb_log import start_wandb

            return start_wandb(config, run_name(config))

        add("W&B", wandb)
    if config.tensorboard.use_tensorboard:

        def tensorboard() -> Tracker:
            from difftori.monitoring.tensorboard_log import TensorboardLog

            return TensorboardLog(config.run.folder, config.flat(), next_env_step)

        add("TensorBoard", tensorboard)
    return trackers
