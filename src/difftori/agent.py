"""The agent of a finished or running run, from its files."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from omegaconf import DictConfig, OmegaConf
from pydantic import ValidationError

from difftori.checkpoints.checkpoint import read_latest
from difftori.checkpoints.folder import read_config
from difftori.checkpoints.published_weights import read_weights
from difftori.checkpoints.tree_file import CheckpointError, load_tree
from difftori.compiling.float32_matmul import set_tf32
from difftori.config import Config, ConfigError, from_flat, one_line, resolve_device
from difftori.envs import ControlEnv
from difftori.envs.rendering import prepare_suite_rendering
from difftori.model.world_model import WorldModel
from difftori.planning.actor import Actor
from difftori.sections import Section
from difftori.types import EnvSpec

FULLY_TRAINED_STEP = 10**9
"""agent step of weights without counters: every schedule has ended"""


OptionsT = TypeVar("OptionsT", bound=Section)


def read_options(cfg: DictConfig, kind: type[OptionsT]) -> OptionsT:
    """The options of a command that takes ``run=``.

    Raises:
        ConfigError: without ``run``, or for an impossible value.
    """
    flat: Any = OmegaConf.to_container(cfg)
    if OmegaConf.is_missing(cfg, "run"):
        raise ConfigError("run= is missing: a run's folder, logs/task/modality/mode/exp_name/seed")
    try:
        return kind.model_validate(flat)
    except ValidationError as error:
        raise ConfigError(one_line(error)) from error


@dataclass(frozen=True)
class Agent:
    config: Config
    actor: Actor
    spec: EnvSpec
    device: torch.device
    agent_step: int
    """of training; it decides planner and horizon"""
    update_step: int
    make_env: Callable[[], ControlEnv]

    @property
    def env_step(self) -> int | None:
        """Of training; None for weights that do not say."""
        known = self.agent_step < FULLY_TRAINED_STEP
        return self.agent_step * self.config.env.action_repeat if known else None


def load_agent(
    run: Path, checkpoint: Path | None, *, device: str, threads: int | None, film: bool
) -> Agent:
    """Read config and weights; prepares rendering if ``film`` or the agent sees pixels.

    Args:
        checkpoint: a checkpoint or a model.pt; None takes the run's latest.
        threads: CPU threads of one operation; None leaves torch's own choice.

    Raises:
        ConfigError: no such run or checkpoint, or nothing here can render.
    """
    _require_files(run, checkpoint)
    config = from_flat({**read_config(run), "device": device, "buffer_device": "cpu"})
    if threads is not None:
        torch.set_num_threads(threads)
    set_tf32(config.run.tf32)
    if film or config.env.modality == "pixels":
        try:
            prepare_suite_rendering(config.env.suite)
        except RuntimeError as error:
            raise ConfigError(str(error)) from error
    weights, agent_step, update_step = _weights(run, checkpoint)
    build_env = env_factory(config)
    env, spec = build_env()
    env.close()
    model = WorldModel(spec, config.model)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ConfigError(f"the weights do not fit the run: {reason}") from error
    place = resolve_device(config.run.device)
    return Agent(
        config=config,
        actor=Actor(model.to(place), config),
        spec=spec,
        device=place,
        agent_step=agent_step,
        update_step=update_step,
        make_env=lambda: build_env()[0],
    )


def _require_files(run: Path, checkpoint: Path | None) -> None:
    if not run.exists():
        raise ConfigError(f"run={run} does not exist")
    if not (run / "config.yaml").exists():
        raise ConfigError(f"run={run} is not a run's folder: {run / 'config.yaml'} does not exist")
    if checkpoint is not None and not checkpoint.exists():
        raise ConfigError(f"checkpoint={checkpoint} does not exist")


def _weights(run: Path, checkpoint: Path | None) -> tuple[dict[str, torch.Tensor], int, int]:
    """The model's weights, and the agent step and update step that they belong to."""
    try:
        if checkpoint is None:
            tree = read_latest(run)
        elif checkpoint.suffix == ".safetensors":
            tree = load_tree(checkpoint)
        else:
            return read_weights(checkpoint)["model"], FULLY_TRAINED_STEP, FULLY_TRAINED_STEP
    except CheckpointError as error:
        raise ConfigError(str(error)) from error
    counters = tree["counters"]
    return tree["model"], counters["agent_step"], counters["update_step"]
