"""Small configs, models and batches for the tests."""

import functools
from typing import Any

import torch

from difftori import envs
from difftori.config import Config, compose
from difftori.envs import ControlEnv
from difftori.model.world_model import WorldModel
from difftori.sections import TaskConfig
from difftori.types import Batch, EnvSpec

TINY = {
    "device": "cpu",
    "enc_dim": 8,
    "mlp_dim": 16,
    "latent_dim": 6,
    "num_channels": 2,
    "horizon": 3,
    "batch_size": 4,
    "num_samples": 32,
    "num_elites": 8,
    "iterations": 2,
    "max_iterations": 8,
    "step_size": 1e-3,
    "damping": 1.0,
}
AFTER_SCHEDULES = 10**9
"""an agent step at which every schedule has ended"""


@functools.cache
def _compose(groups: tuple[str, ...], keys: tuple[tuple[str, Any], ...]) -> Config:
    return compose(*groups, **{**TINY, **dict(keys)})


def tiny_config(*groups: str, **keys: Any) -> Config:
    """The default config with everything small; ``keys`` win."""
    return _compose(groups, tuple(sorted(keys.items())))


def task_config(
    task: str, suite: str, domain: str, domain_task: str, action_repeat: int, **fields: Any
) -> TaskConfig:
    return TaskConfig(
        task=task,
        suite=suite,
        domain=domain,
        domain_task=domain_task,
        action_repeat=action_repeat,
        **fields,
    )


def make_env(task: TaskConfig, modality: str = "state") -> tuple[ControlEnv, EnvSpec]:
    return envs.make_env(task.model_copy(update={"modality": modality}))


def tiny_spec(modality: str = "state", action_dim: int = 2) -> EnvSpec:
    shape = (9, 84, 84) if modality == "pixels" else (5,)
    return EnvSpec("tiny", modality, shape, action_dim, 100, 2, 3 if modality == "pixels" else 1)


def tiny_model(config: Config, spec: EnvSpec | None = None, seed: int = 0) -> WorldModel:
    """A model whose zero last layers are random, so that rewards and values are not zero."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = WorldModel(spec or tiny_spec(config.env.modality), config.model)
        for parameter in model.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.3)
    return model


def generators(count: int, seed: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed + i) for i in range(count)]


def random_obs(*batch: int, modality: str = "state", seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (*batch, *tiny_spec(modality).obs_shape)
    if modality == "pixels":
        return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    return torch.randn(shape, generator=generator)


def random_batch(size: int = 4, horizon: int = 3, modality: str = "state", seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed + 1)
    return Batch(
        obs=random_obs(size, modality=modality, seed=seed),
        next_obs=random_obs(horizon, size, modality=modality, seed=seed + 2),
        action=2 * torch.rand(horizon, size, 2, generator=generator) - 1,
        reward=torch.rand(horizon, size, 1, generator=generator),
        terminated=torch.zeros(horizon, size, 1),
        weight=torch.rand(size, generator=generator),
        index=torch.arange(size),
    )
