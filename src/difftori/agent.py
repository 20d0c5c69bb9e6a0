"""The agent of a finished or running run, from the run's files.

from difftori import load_agent

agent = load_agent("logs/cartpole-swingup/state/back_plan/default/1")
env = agent.make_env()
obs, _ = env.reset(seed=0)
agent.reset(seed=0)
done = False
while not done:
    obs, reward, terminated, truncated, _ = env.step(agent.act(obs))
    done = terminated or truncated
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from difftori.checkpoints.checkpoint import read_latest
from difftori.checkpoints.folder import read_config
from difftori.checkpoints.published_weights import read_weights
from difftori.checkpoints.tree_file import CheckpointError, load_tree
from difftori.compiling.compiler import Compiler
from difftori.compiling.cuda_graphs import CudaGraphs
from difftori.compiling.float32_matmul import set_tf32
from difftori.config import Config, ConfigError, from_flat, plain_defaults
from difftori.devices import make_current, resolve_device
from difftori.envs import ControlEnv, make_env
from difftori.learning.finite import NotFiniteError, check_weights
from difftori.model.world_model import WorldModel
from difftori.planning.actor import Actor
from difftori.training.seeding import generator
from difftori.types import EnvSpec


@dataclass(frozen=True)
class Progress:
    """How far training was when the weights were saved."""

    agent_step: int
    """decides planner and horizon"""
    update_step: int
    """decides the sampling planner's standard deviation"""
    env_step: int | None
    """environment steps taken; None for weights that do not say"""


class Agent:
    """Acts as its run acts in evaluations, without exploration, in one episode at a time."""

    def __init__(
        self,
        config: Config,
        actor: Actor,
        env: ControlEnv,
        spec: EnvSpec,
        device: torch.device,
        trained: Progress,
    ) -> None:
        """``env`` tells what the environment calls an observation and an action; it is not run."""
        self.config = config
        self._env = env
        self.actor = actor
        self.spec = spec
        self.device = device
        self.trained = trained
        self.reset()

    def reset(self, seed: int = 0) -> None:
        """Begin an episode; the seed decides the planner's noise."""
        self._carry: Tensor | None = None
        self._generator = generator(self.device, seed, "evaluation")

    def act(self, obs: Any) -> np.ndarray:
        """The action for the episode's next observation, both as `make_env`'s environment has them.

        For a Gymnasium task also as the environment itself has them: ``obs`` may be a Dict, and the
        action lies in the environment's own action space. For other tasks ``[*O]``, and ``[A]``
        float32 in [-1, 1]. Raises ValueError for an observation of another shape.
        """
        obs = self._env.flat_observation(obs)
        if np.shape(obs) != self.spec.obs_shape:
            raise ValueError(
                f"an observation of {self.spec.task} has shape {self.spec.obs_shape}, "
                f"got {np.shape(obs)}"
            )
        plan = self.actor.act(
            torch.as_tensor(obs, dtype=self.spec.obs_dtype, device=self.device).unsqueeze(0),
            episode_start_step=self.trained.agent_step,
            update_step=self.trained.update_step,
            carry=self._carry,
            explore=False,
            generators=[self._generator],
        )
        self._carry = plan.carry
        return self._env.native_action(plan.action[0].cpu().numpy())

    def make_env(self) -> gym.Env[np.ndarray, np.ndarray]:
        """A new environment of the run's task, which takes the actions that `act` gives.

        One of its steps is an agent step: it holds an action for ``action_repeat`` steps.
        """
        return self.make_control_env().with_native_actions()

    def make_control_env(self) -> ControlEnv:
        """The same with actions in [-1, 1], as the agent's planner has them."""
        return make_env(self.config.env)[0]


def load_agent(
    run: str | Path, checkpoint: str | Path | None = None, device: str = "auto"
) -> Agent:
    """The agent of the run in the folder ``run``.

    Call `difftori.envs.rendering.prepare_rendering` before this to render the environments of an
    agent that sees states; for one that sees pixels this is done here.

    Args:
        checkpoint: a checkpoint or a ``model.pt``; None takes the run's latest checkpoint.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        ConfigError: no such run, checkpoint or device, or pixels cannot be rendered here.
    """
    here = {"device": device, "buffer_device": "cpu"}
    config = from_flat({**plain_defaults(), **read_config(Path(run)), **here})
    set_tf32(config.run.tf32)
    weights, trained = _read_weights(
        config, Path(run), None if checkpoint is None else Path(checkpoint)
    )
    try:
        env, spec = make_env(config.env)
    except (ValueError, RuntimeError, ImportError) as error:
        raise ConfigError(str(error)) from error
    env.close()
    place = resolve_device(device)
    make_current(place)
    model = WorldModel(spec, config.model).to(place)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ConfigError(f"the weights do not fit the run: {reason}") from error
    try:
        check_weights(model)
    except NotFiniteError as error:
        raise ConfigError(f"nothing can act with these weights: {error}") from error
    compiler = Compiler(False, graphs=CudaGraphs(config.run.cuda_graphs))
    return Agent(config, Actor(model, config, compiler), env, spec, place, trained)


def _read_weights(
    config: Config, run: Path, checkpoint: Path | None
) -> tuple[dict[str, Tensor], Progress]:
    """The model's weights, and how far they were trained. Raises ConfigError."""
    if checkpoint is not None and not checkpoint.exists():
        raise ConfigError(f"checkpoint={checkpoint} does not exist")
    if checkpoint is not None and checkpoint.suffix != ".safetensors":
        end = config.run.train_steps // config.env.action_repeat
        return read_weights(checkpoint)["model"], Progress(end, end, None)
    try:
        tree = read_latest(run) if checkpoint is None else load_tree(checkpoint)
    except CheckpointError as error:
        raise ConfigError(str(error)) from error
    if tree is None:
        raise ConfigError(f"there is no checkpoint in {run / 'checkpoints'}")
    if "counters" not in tree:
        raise ConfigError(f"checkpoint={checkpoint} holds no agent: it is another file of a run")
    counters = tree["counters"]
    trained = Progress(counters["agent_step"], counters["update_step"], counters["env_step"])
    return tree["model"], trained
