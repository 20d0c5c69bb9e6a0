"""What a run will take of the machine, said before anything slow, and refused if it cannot fit."""

import logging
import math
import re
from pathlib import Path

import torch
from rich.filesize import decimal

from difftori.config import Config, ConfigError
from difftori.model.world_model import WorldModel
from difftori.replay import memory_bytes
from difftori.types import EnvSpec

logger = logging.getLogger(__name__)


def announce(
    config: Config,
    spec: EnvSpec,
    device: torch.device,
    episode_bytes: int,
    checkpoint_bytes: int,
) -> None:
    """What will run and what it will take, before anything slow; refuses what cannot fit.

    Raises:
        ConfigError: the buffer would outgrow the machine's memory before the run ends.
    """
    run = config.run
    where = f"{device}, threads {torch.get_num_threads()}" if device.type == "cpu" else str(device)
    steps = stored_steps(config, spec)
    capacity = config.replay.max_buffer_size
    need = buffer_bytes(config, spec)
    disk = disk_bytes(config, spec, episode_bytes, checkpoint_bytes)
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
    # where episodes may end, their last steps can begin a sequence too
    too_late = 0 if spec.can_terminate else config.replay.horizon
    fitting = capacity // spec.episode_length * (spec.episode_length - too_late)
    if fitting < config.learner.batch_size:
        raise ConfigError(
            f"max_buffer_size={capacity} is too small: a batch of {config.learner.batch_size} "
            f"sequences cannot be drawn from so few episodes of {spec.episode_length} agent steps"
        )
    room = available_memory(torch.device(run.buffer_device))
    if room is not None and need > room:
        place = "this machine" if run.buffer_device == "cpu" else run.buffer_device
        raise ConfigError(
            f"the replay buffer needs {decimal(need)}, and {place} has "
            f"{decimal(room)} free; lower max_buffer_size or train_steps"
        )


def stored_steps(config: Config, spec: EnvSpec) -> int:
    """Agent steps that the replay buffer will hold at most."""
    return min(config.replay.max_buffer_size, -(-config.run.train_steps // spec.action_repeat))


def buffer_bytes(config: Config, spec: EnvSpec) -> int:
    """Memory that the replay buffer will take at most."""
    return memory_bytes(spec, config.replay.max_buffer_size, stored_steps(config, spec))


def disk_bytes(config: Config, spec: EnvSpec, episode_bytes: int, checkpoint_bytes: int) -> int:
    """Disk that a run's episodes and three checkpoints take at most."""
    episodes = math.ceil(stored_steps(config, spec) / spec.episode_length)
    return episodes * episode_bytes + 3 * checkpoint_bytes


def checkpoint_bytes(model: WorldModel) -> int:
    """About what one checkpoint takes beside the replay data.

    Model and target, two Adams with two moments each, and the plan's gradient.
    """
    return 7 * sum(p.numel() * p.element_size() for p in model.parameters())


def available_memory(device: torch.device) -> int | None:
    """Bytes that can be had there without swapping; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        text = Path("/proc/meminfo").read_text()
    except OSError:
        return None
    found = re.search(r"MemAvailable: *(\d+) kB", text)
    return int(found[1]) * 1024 if found else None
