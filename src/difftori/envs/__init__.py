"""Environments: one call gives a gymnasium environment and the facts about it."""

from collections.abc import Callable
from importlib import import_module

from difftori.envs.base import ControlEnv, Simulator
from difftori.sections import TaskConfig
from difftori.types import EnvSpec

__all__ = ["ControlEnv", "make_env"]

# Module and function of each suite. Named by strings so that a suite's simulator is imported
# when it is asked for: the others need not even be installed.
SUITES = {
    "dmcontrol": "difftori.envs.dmcontrol:make_simulator",
    "metaworld": "difftori.envs.metaworld:make_simulator",
    "gymnasium": "difftori.envs.gymnasium_suite:make_simulator",
    "integrator": "difftori.envs.integrator:make_simulator",
}


def make_env(task: TaskConfig) -> tuple[ControlEnv, EnvSpec]:
    """Build the environment of a task.

    Raises:
        ValueError: the suite or the task is unknown; the message names the choices.
        RuntimeError: pixels are wanted and nothing here can render, or a library cannot be loaded.
        ImportError: the suite's package is not installed.
    """
    simulator = _suite(task.suite)(task)
    env = ControlEnv(
        simulator,
        action_repeat=task.action_repeat,
        pixels=task.from_pixels,
        frame_stack=task.frame_stack,
        img_size=task.img_size,
        episode_length=task.episode_length,
    )
    spec = EnvSpec(
        task=task.task,
        modality=task.modality,
        obs_shape=env.obs_shape,
        action_dim=simulator.action_dim,
        episode_length=env.episode_length,
        action_repeat=task.action_repeat,
        frame_stack=task.frame_stack if task.from_pixels else 1,
        can_terminate=simulator.can_terminate if task.episodic is None else task.episodic,
    )
    return env, spec


def _suite(name: str) -> Callable[[TaskConfig], Simulator]:
    if name not in SUITES:
        raise ValueError(f"unknown suite {name!r}: choose from {', '.join(sorted(SUITES))}")
    module, function = SUITES[name].split(":")
    return getattr(import_module(module), function)
