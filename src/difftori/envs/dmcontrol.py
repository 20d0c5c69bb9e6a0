"""The DeepMind Control Suite."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from difftori.envs.base import SimStep, check_camera
from difftori.envs.rendering import check_rendering, importing_mujoco, prepare_rendering
from difftori.sections import TaskConfig


def make_simulator(task: TaskConfig) -> "DMControl":
    """Load a task of the suite; dm_control itself is imported here.

    Raises:
        ValueError: the suite has no such domain or task, or the task never ends.
        RuntimeError: pixels are wanted and nothing here can render, or MUJOCO_GL cannot be loaded.
    """
    if task.from_pixels:
        prepare_rendering()
    with importing_mujoco():
        from dm_control import suite
    if (task.domain, task.domain_task) not in suite.ALL_TASKS:
        known = ", ".join(sorted(f"{domain}/{name}" for domain, name in suite.ALL_TASKS))
        raise ValueError(
            f"dm_control has no task {task.domain}/{task.domain_task}: choose from {known}"
        )
    return DMControl(task.domain, task.domain_task, task.camera)


class DMControl:
    """One task of the suite in environment steps; see `Simulator`."""

    can_terminate = False

    def __init__(self, domain: str, domain_task: str, camera: int = 0) -> None:
        from dm_control import suite

        self._camera = camera
        self._closed = False
        self._env = suite.load(domain, domain_task)
        check_camera(camera, self._env.physics.model.ncam)
        action_spec = self._env.action_spec()
        self._action_min = action_spec.minimum
        self._action_scale = (action_spec.maximum - action_spec.minimum) / 2.0
        self.action_dim = int(action_spec.shape[0])
        # dm_control ends an episode at the first step count that is not below this limit.
        limit = self._env._step_limit
        if math.isinf(limit):
            raise ValueError(f"{domain}/{domain_task} has no time limit: its episodes never end")
        self.max_steps = math.ceil(limit)
        self.step_seconds = float(self._env.control_timestep())
        sizes = [math.prod(part.shape) for part in self._env.observation_spec().values()]
        self.state_dim = sum(sizes)
        self._obs = np.zeros(self.state_dim, np.float32)

    def reset(self, seed: int) -> None:
        # Every suite task draws its start and its targets anew from this generator, and what it
        # leaves in the model it overwrites: no task has to be loaded again (the tests try all).
        self._env.task._random = np.random.RandomState(seed)
        with _no_new_context(self._env.physics):
            self._obs = _flat(self._env.reset().observation)

    def step(self, action: np.ndarray) -> SimStep:
        scaled = self._action_min + self._action_scale * (np.asarray(action, np.float64) + 1.0)
        time_step = self._env.step(scaled)
        self._obs = _flat(time_step.observation)
        # Discount 0 marks an end in the task itself; at the time limit it is 1.
        terminated = bool(time_step.last() and time_step.discount == 0.0)
        return SimStep(float(time_step.reward), terminated)

    def state(self) -> np.ndarray:
        """The observation's arrays in dm_control's order, flattened: ``[D]`` float32."""
        return self._obs.copy()

    def render(self, height: int, width: int) -> np.ndarray:
        check_rendering()
        self._make_room(height, width)
        return self._env.physics.render(height, width, camera_id=self._camera)

    def _make_room(self, height: int, width: int) -> None:
        """A picture larger than the model's own framebuffer, 640 by 480, needs a larger one."""
        physics = self._env.physics
        limits = physics.model.vis.global_
        if height <= limits.offheight and width <= limits.offwidth:
            return
        limits.offheight = max(height, limits.offheight)
        limits.offwidth = max(width, limits.offwidth)
        if physics._contexts is not None:
            physics._free_rendering_contexts()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._env.physics.free()


def _flat(observation: dict[str, Any]) -> np.ndarray:
    parts = [np.asarray(value, np.float32).ravel() for value in observation.values()]
    return np.concatenate(parts)


@contextmanager
def _no_new_context(physics: Any) -> Iterator[None]:
    """Keep a reset from opening a rendering context that nothing has asked for.

    quadruped-escape uploads its new terrain to the renderer at each reset and opens one for
    that; where there is none yet, the first rendered frame uploads the terrain anyway.
    """
    if physics._contexts is not None:
        yield
        return
    owner = type(physics)
    physics.__class__ = type(owner.__name__, (owner,), {"contexts": None})
    try:
        yield
    finally:
        physics.__class__ = owner
