"""What a run will take of the machine, said before it begins, and refused if it cannot fit."""

import logging
import math

import torch
from rich.filesize import decimal

from difftori.config import Config, ConfigError
from difftori.devices import resolve_device
from difftori.machine import available_memory
from difftori.model.world_model import WorldModel
from difftori.replay.layout import memory_bytes, slot_bytes
from difftori.types import EnvSpec

EPISODE_HEADER_BYTES = 1024
"""about, of an episode's file"""

logger = logging.getLogger(__name__)


def announce(
    config: Config,
    spec: EnvSpec,
    device: torch.device,
    model: WorldModel,
) -> None:
    """What will run and what it will take, before it begins; refuses what cannot fit.

    Raises:
        ConfigError: the buffer would outgrow the machine's memory before the run ends.
    """
    run = config.run
    where = f"{device}, threads {torch.get_num_threads()}" if device.type == "cpu" else str(device)
    steps = stored_steps(config, spec)
    capacity = config.replay.max_buffer_size
    need = buffer_bytes(config, spec)
    disk = disk_bytes(config, spec, model)
    logger.info(
        f"{spec.task} from {spec.modality}, mode {run.mode}, preset {run.preset}, "
        f"agent {run.agent}, seed {run.seed}, on {where}"
    )
    logger.info(
        f"{run.train_steps:,} env steps, action repeat {spec.action_repeat}, "
        f"{spec.episode_length} agent steps an episode"
    )
    logger.info(
        f"replay buffer: up to {decimal(need)} of memory, for {steps:,} agent steps; "
        f"on disk, with three checkpoints: up to {decimal(disk)}"
    )
    logger.info(f"run folder: {run.folder}")
    _warn_of_what_comes_too_late(config, spec)
    # where episodes may end, their last steps can begin a sequence too
    too_late = 0 if spec.can_terminate else config.replay.horizon
    fitting = capacity // spec.episode_length * (spec.episode_length - too_late)
    if fitting < config.learner.batch_size:
        raise ConfigError(
            f"max_buffer_size={capacity} is too small: a batch of {config.learner.batch_size} "
            f"sequences cannot be drawn from so few episodes of {spec.episode_length} agent steps"
        )
    room = available_memory(resolve_device(run.buffer_device))
    if room is not None and need > room:
        place = "this machine" if run.buffer_device == "cpu" else run.buffer_device
        raise ConfigError(
            f"the replay buffer needs {decimal(need)}, and {place} has "
            f"{decimal(room)} free; lower max_buffer_size or train_steps"
        )


def _warn_of_what_comes_too_late(config: Config, spec: EnvSpec) -> None:
    run, actor = config.run, config.actor
    agent_steps = run.train_steps / spec.action_repeat
    if run.seed_steps >= agent_steps and not run.seed_until_reward:
        logger.warning(
            f"nothing will be learned: seed_steps={run.seed_steps:,} agent steps of random actions "
            f"are all of the run's {agent_steps:,.0f}"
        )
    elif actor.planner != actor.warmup_planner and actor.planner_start_step >= agent_steps:
        logger.warning(
            f"no trajectory will be optimized: theseus_start_step={actor.planner_start_step:,}, "
            f"and the run has {agent_steps:,.0f} agent steps"
        )


def stored_steps(config: Config, spec: EnvSpec) -> int:
    """Agent steps that the replay buffer will hold at most."""
    return min(config.replay.max_buffer_size, -(-config.run.train_steps // spec.action_repeat))


def buffer_bytes(config: Config, spec: EnvSpec) -> int:
    """Memory that the replay buffer will take at most."""
    return memory_bytes(spec, config.replay.max_buffer_size, stored_steps(config, spec))


def disk_bytes(config: Config, spec: EnvSpec, model: WorldModel) -> int:
    """Disk that a run's episodes and three checkpoints take, if episodes have their full length.

    A checkpoint has model and target, two moments each of the model's and of the plan's Adam, the
    plan's gradient, and two numbers for each agent step that is stored.
    """
    steps = stored_steps(config, spec)
    episodes = math.ceil(steps / spec.episode_length)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    replay = (steps + episodes) * slot_bytes(spec) + episodes * EPISODE_HEADER_BYTES
    return replay + 3 * (7 * weights + 16 * steps)
