"""One training run: claims the folder, runs the trainer, and says how it ended."""

import contextlib
import io
from pathlib import Path
from typing import Any

import torch
import yaml
from omegaconf import DictConfig

from difftori.checkpoints.files import write_bytes
from difftori.checkpoints.folder import delete, put_aside, put_back
from difftori.checkpoints.lock import RunLock, RunLockedError
from difftori.checkpoints.tree_file import CheckpointError
from difftori.config import Config, ConfigError, from_hydra
from difftori.envs.rendering import prepare_rendering
from difftori.learning.finite import NotFiniteError
from difftori.monitoring.console import ConsoleReporter
from difftori.monitoring.metrics import Metrics
from difftori.monitoring.provenance import record_session
from difftori.monitoring.status import State, clear_queued, describe, write_status
from difftori.monitoring.tracking import run_name, start_trackers
from difftori.training.allocator import keep_freed_memory
from difftori.training.build import build_trainer, resolve_device
from difftori.training.collector import EpisodeFailedError
from difftori.training.signals import RESUME_EXIT_CODE, StopRequested, StopSignals
from difftori.training.trainer import Trainer

FAILED_EXIT_CODE = 1


def train(cfg: DictConfig) -> int:
    """Run or resume what the config describes; returns the process's exit code.

    0 when the run is complete, 75 when it was asked to stop and can be resumed, 1 when it
    cannot go on.

    Raises:
        ConfigError: nothing was started, and nothing changed on disk.
    """
    config = from_hydra(cfg)
    if config.run.threads is not None:
        torch.set_num_threads(config.run.threads)
    keep_freed_memory()
    if config.env.modality == "pixels" or config.evaluation.save_video:
        _prepare_rendering()
    if config.run.start_from is not None and not config.run.start_from.is_file():
        raise ConfigError(f"start_from={config.run.start_from} is not a file")
    folder = config.run.folder
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(RunLock(folder))
            aside = put_aside(config.run)
        except RunLockedError as error:
            raise ConfigError(str(error)) from error
        except OSError as error:
            raise ConfigError(f"the run folder {folder} cannot be used: {error}") from error
        with StopSignals() as signals, ConsoleReporter() as console:
            code = _run(config, aside, console, signals)
    chained = signals.previous_handler()
    if chained is not None:
        chained()
    return code


def _prepare_rendering() -> None:
    try:
        prepare_rendering()
    except RuntimeError as error:
        raise ConfigError(str(error)) from error


def _run(config: Config, aside: Path | None, console: ConsoleReporter, signals: StopSignals) -> int:
    folder = config.run.folder
    metrics = Metrics(folder, console=console)
    code = FAILED_EXIT_CODE
    trainer = None
    state: State = "failed"
    reason = ""
    try:
        try:
            trainer = build_trainer(config, console=console, metrics=metrics, signals=signals)
        except BaseException:
            if aside is not None:
                put_back(folder, aside)
            raise
        if aside is not None:
            delete(aside)
        settings = yaml.safe_dump(config.flat(), sort_keys=False)
        _write_or_warn(folder / "config.yaml", settings.encode(), console)
        device, env_step = resolve_device(config.run.device), trainer.counters.env_step
        record_session(folder, device=device, env_step=env_step, console=console)
        write_status(folder, "running", env_step=env_step)
        clear_queued(folder)
        metrics.attach(start_trackers(config, trainer.elapsed_seconds, console))
        trainer.run()
        reason = "the disk did not take models/model.pt"
        if not config.run.save_model or _save_model(trainer, config, metrics, console):
            console.info(f"done: {config.run.train_steps:,} env steps, everything in {folder}")
            code, state, reason = 0, "done", ""
    except StopRequested as request:
        where = "from here" if request.saved else "from its last checkpoint"
        saved = "and saved" if request.saved else "but could not save"
        console.info(f"stopped by {request} {saved}; the same command goes on {where}")
        code, state, reason = RESUME_EXIT_CODE, "stopped", f"by {request}, {saved}"
    except (NotFiniteError, EpisodeFailedError, CheckpointError) as error:
        console.error(f"{error}; what was saved before is intact in {folder / 'checkpoints'}")
        reason = str(error)
    except BaseException as error:
        state = "stopped" if isinstance(error, KeyboardInterrupt) else "failed"
        # a refused config changes nothing, and so not what the folder says of its run
        reason = "" if isinstance(error, ConfigError) else describe(error)
        raise
    finally:
        if reason or state == "done":
            step = None if trainer is None else trainer.counters.env_step
            write_status(folder, state, reason=reason, env_step=step)
        if trainer is not None:
            trainer.close()
            if trainer.counters.best_reward is not None:
                metrics.summary({"eval/best_episode_reward": trainer.counters.best_reward})
        metrics.close(code)
    return code


def _save_model(
    trainer: Trainer, config: Config, metrics: Metrics, console: ConsoleReporter
) -> bool:
    """The weights in the published format; False if the disk did not take them."""
    path = config.run.folder / "models" / "model.pt"
    buffer = io.BytesIO()
    torch.save(trainer.weights(), buffer)
    if not _write_or_warn(path, buffer.getvalue(), console):
        return False
    if config.wandb.wandb_artifact:
        metrics.artifact(path, f"model-{run_name(config)}")
    return True


def _write_or_warn(path: Path, content: bytes, console: ConsoleReporter) -> bool:
    try:
        path.parent.mkdir(exist_ok=True)
        write_bytes(path, content)
    except OSError as error:
        console.warn(f"{path} ({len(content):,} bytes) was not written: {error.strerror}")
        return False
    return True


def read_config(folder: Path) -> dict[str, Any]:
    """The flat keys that a run was started with. Raises ConfigError."""
    try:
        config = yaml.safe_load((folder / "config.yaml").read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(
            f"{folder} is not a run's folder: {str(error).splitlines()[0]}"
        ) from error
    if not isinstance(config, dict):
        raise ConfigError(f"{folder} is not a run's folder: its config.yaml holds no keys")
    return config
