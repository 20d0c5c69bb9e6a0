"""A point that its action pushes: no simulator, and the best return is known. For tests.

x' = x + 0.1 a with a in [-1, 1]^D, reward 1 - |x'|², x_0 uniform in [-1, 1]^D.

Each coordinate is on its own and nothing is gained by moving away from zero, so with
``action_repeat`` 1 the best action takes each coordinate as near to zero as one step can:
a* = clip(-10 x, -1, 1).
"""

import re

import numpy as np

from difftori.envs.base import SimStep
from difftori.sections import TaskConfig

STEP = 0.1
_VIEW = 2.0  # the image shows x from -2 to 2


def make_simulator(task: TaskConfig) -> "Integrator":
    """Read the task's sizes from its names: domain ``point-2d``, domain_task ``20-steps``.

    The steps are agent steps.

    Raises:
        ValueError: the names do not have that form.
    """
    dim = re.fullmatch(r"point-([1-9]\d*)d", task.domain)
    steps = re.fullmatch(r"([1-9]\d*)-steps", task.domain_task)
    if dim is None or steps is None:
        raise ValueError(
            "the integrator's domain and domain_task look like 'point-2d' and '20-steps', "
            f"got {task.domain!r} and {task.domain_task!r}"
        )
    return Integrator(int(dim[1]), int(steps[1]) * task.action_repeat)


class Integrator:
    """The point in environment steps; see `Simulator`."""

    can_terminate = False

    def __init__(self, dim: int = 2, max_steps: int = 20) -> None:
        self.action_dim = dim
        self.state_dim = dim
        self.max_steps = max_steps
        self._x = np.zeros(dim)

    def reset(self, seed: int) -> None:
        self._x = np.random.RandomState(seed).uniform(-1.0, 1.0, self.action_dim)

    def step(self, action: np.ndarray) -> SimStep:
        self._x = self._x + STEP * np.clip(np.asarray(action, np.float64), -1.0, 1.0)
        return SimStep(1.0 - float(self._x @ self._x), terminated=False)

    def state(self) -> np.ndarray:
        """The point, ``[D]`` float32."""
        return self._x.astype(np.float32)

    def render(self, height: int, width: int) -> np.ndarray:
        """A bright square at the first two coordinates, the origin in the middle."""
        image = np.full((height, width, 3), 32, np.uint8)
        x, y = np.resize(self._x, 2) if self.action_dim > 1 else (self._x[0], 0.0)
        half = max(1, min(height, width) // 16)
        row = round(float(np.clip(0.5 - y / (2 * _VIEW), 0, 1)) * (height - 1))
        column = round(float(np.clip(0.5 + x / (2 * _VIEW), 0, 1)) * (width - 1))
        image[max(0, row - half) : row + half + 1, max(0, column - half) : column + half + 1] = 255
        return image

    def close(self) -> None:
        pass
