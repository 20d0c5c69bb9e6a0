"""Environments: one call gives a gymnasium environment and the facts about it."""

from collections.abc import Callable
from importlib import import_module

from difftori.envs.base import ControlEnv, Simulator
from difftori.envs.spec import TaskSpec
from difftori.sections import TaskConfig
from difftori.types import EnvSpec

__all__ = ["ControlEnv", "TaskSpec", "env_from_config", "make_env"]

MODALITIES = ("state", "pixels")

# Module and function of each suite. Named by strings so that a suite's simulator is imported
# when it is asked for: the others need not even be installed.
SUITES = {
    "dmcontrol": "difftori.envs.dmcontrol:make_simulator",
    "metaworld": "difftori.envs.metaworld:make_simulator",
    "gymnasium": "difftori.envs.gymnasium_suite:make_simulator",
    "integrator": "difftori.envs.integrator:make_simulator",
}


def make_env(
    task: TaskSpec, modality: str, *, frame_stack: int = 3, img_size: int = 84
) -> tuple[ControlEnv, EnvSpec]:
    """Build the environment of a task.

    Args:
        task: which task, and how long each action is held.
        modality: ``state`` or ``pixels``.
        frame_stack: frames in one observation, from pixels.
        img_size: height and width of a frame, from pixels.

    Raises:
        ValueError: the suite, the modality or the task is unknown; the message names the choices.
        RuntimeError: pixels are wanted and nothing here can render.
    """
    if modality not in MODALITIES:
        raise ValueError(f"unknown modality {modality!r}: choose from {', '.join(MODALITIES)}")
    pixels = modality == "pixels"
    simulator = _suite(task.suite)(task, pixels)
    env = ControlEnv(
        simulator,
        action_repeat=task.action_repeat,
        pixels=pixels,
        frame_stack=frame_stack,
        img_size=img_size,
        episode_length=task.episode_length,
    )
    spec = EnvSpec(
        task=task.name,
        modality=modality,
        obs_shape=env.obs_shape,
        action_dim=simulator.action_dim,
        episode_length=env.episode_length,
        action_repeat=task.action_repeat,
        frame_stack=frame_stack if pixels else 1,
        can_terminate=simulator.can_terminate if task.episodic is None else task.episodic,
    )
    return env, spec


def env_from_config(config: TaskConfig) -> tuple[ControlEnv, EnvSpec]:
    """The environment that a run's config names; raises as ``make_env``."""
    task = TaskSpec(
        name=config.task,
        suite=config.suite,
        domain=config.domain,
        domain_task=config.domain_task,
        action_repeat=config.action_repeat,
        camera=config.camera,
        episode_length=config.episode_length,
        episodic=config.episodic,
        env_kwargs=config.env_kwargs,
    )
    return make_env(task, config.modality, frame_stack=config.frame_stack, img_size=config.img_size)


def _suite(name: str) -> Callable[[TaskSpec, bool], Simulator]:
    if name not in SUITES:
        raise ValueError(f"unknown suite {name!r}: choose from {', '.join(sorted(SUITES))}")
    module, function = SUITES[name].split(":")
    return getattr(import_module(module), function)
