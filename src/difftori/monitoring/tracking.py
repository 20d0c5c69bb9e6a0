"""Which trackers a run has, and how it is called there."""

from difftori.config import Config
from difftori.monitoring.console import ConsoleReporter
from difftori.monitoring.tensorboard import start_tensorboard
from difftori.monitoring.trackers import Tracker, run_id, start_wandb


def start_trackers(
    config: Config, elapsed_seconds: float, console: ConsoleReporter
) -> list[Tracker]:
    """Those that the config asks for and that can be had; a warning for each that cannot.

    ``elapsed_seconds`` of training lie behind the run.
    """
    trackers: list[Tracker | None] = []
    if config.wandb.use_wandb:
        trackers.append(_wandb(config, console))
    if config.tensorboard.use_tensorboard:
        tensorboard = start_tensorboard(
            folder=config.run.folder,
            config=config.flat(),
            elapsed_seconds=elapsed_seconds,
            warn=console.warn,
        )
        trackers.append(tensorboard)
    return [tracker for tracker in trackers if tracker is not None]


def run_name(config: Config) -> str:
    """What tells a run from all others, in one word."""
    run = config.run
    return f"{run.task}-{run.modality}-{run.mode}-{run.exp_name}-{run.seed}"


def _wandb(config: Config, console: ConsoleReporter) -> Tracker | None:
    wandb, run = config.wandb, config.run
    try:
        identifier = run_id(run.folder)
    except OSError as error:
        console.warn(f"W&B is off: its run id cannot be kept in {run.folder}: {error.strerror}")
        return None
    tags = (run.task, run.modality, run.mode, run.preset, *wandb.wandb_tags)
    return start_wandb(
        project=wandb.wandb_project,
        entity=wandb.wandb_entity,
        mode=wandb.wandb_mode,
        run_id=identifier,
        name=run_name(config),
        group=wandb.wandb_group,
        tags=list(dict.fromkeys(tags)),
        config=config.flat(),
        folder=run.folder,
        warn=console.warn,
    )
