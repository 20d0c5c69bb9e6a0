"""The environment that agents see, around any simulator.

A suite provides a `Simulator`, which knows environment steps and nothing of agents;
`ControlEnv` adds what all suites share: action repeat, the time limit, stacked frames and seeds.
"""

from collections import deque
from typing import Any, NamedTuple, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np

LARGEST_VALUE = 1e18
"""observations and rewards of this size and more cannot be learned from: float32 has no room for
their squares"""


class SimStep(NamedTuple):
    """What one environment step gave."""

    reward: float
    terminated: bool
    """the task ended here for a reason of its own, not because its time was up"""
    success: bool | None = None
    """whether the task counts as solved, in suites that say so"""
    truncated: bool = False
    """the episode was cut here by a limit of the simulator's own"""


@runtime_checkable
class Simulator(Protocol):
    """What a suite provides; one call of `step` is one environment step."""

    @property
    def action_dim(self) -> int: ...

    @property
    def state_dim(self) -> int: ...

    @property
    def max_steps(self) -> int:
        """Environment steps in a whole episode."""

    @property
    def can_terminate(self) -> bool:
        """Whether episodes may end for reasons of their own, before their time is up."""

    def reset(self, seed: int) -> None:
        """Begin an episode that is a function of the seed alone, whatever ran before."""

    def step(self, action: np.ndarray) -> SimStep:
        """Advance by one environment step; ``action`` is ``[A]``, scaled to [-1, 1]."""

    def state(self) -> np.ndarray:
        """Current observation from state, ``[state_dim]`` float32, an array of its own."""

    def render(self, height: int, width: int) -> np.ndarray:
        """Current image, ``[height, width, 3]`` uint8."""

    def close(self) -> None:
        """Free what the simulator holds; harmless when called twice."""


@runtime_checkable
class OwnSpaces(Protocol):
    """A simulator of an environment that users also run themselves, in its own spaces."""

    native_action_space: gym.Space[Any]

    def flat_observation(self, obs: Any) -> np.ndarray:
        """The environment's own observation as ``state`` gives it."""

    def native_action(self, action: np.ndarray) -> Any:
        """From [-1, 1] ``[A]`` to the environment's own action."""

    def agent_action(self, action: Any) -> np.ndarray:
        """The way back."""


def check_values(obs: np.ndarray, reward: float = 0.0) -> None:
    """Raises ValueError for what cannot be learned from: NaN, infinity, and what is as large."""
    for name, value in (("an observation", obs), ("the reward", reward)):
        if not (np.abs(value) < LARGEST_VALUE).all():
            raise ValueError(f"{name} was not finite, or {LARGEST_VALUE:.0e} or more")


def check_camera(camera: int, cameras: int) -> None:
    """Raises ValueError for a camera that a model with that many fixed ones does not have."""
    if not 0 <= camera < cameras:
        raise ValueError(f"camera={camera}: this task has cameras 0 to {cameras - 1}")


class ControlEnv(gym.Env[np.ndarray, np.ndarray]):
    """A simulator seen in agent steps.

    Observations are ``[D]`` float32 from state, or ``[3 * frame_stack, img_size, img_size]``
    uint8 from pixels, oldest frame first; the first frame of an episode fills the whole stack.
    Actions are ``[A]`` float32 in [-1, 1]; they are not clipped here.

    Exceptions of the simulator propagate, and values that are not finite pass unchanged: what
    to do about a diverged simulation is for the caller to decide (`check_values`).
    """

    def __init__(
        self,
        simulator: Simulator,
        *,
        action_repeat: int,
        pixels: bool,
        frame_stack: int = 3,
        img_size: int = 84,
        episode_length: int | None = None,
    ) -> None:
        """``episode_length`` (environment steps) cuts episodes that would be longer."""
        self.simulator = simulator
        self.action_repeat = action_repeat
        self._max_steps = min(simulator.max_steps, episode_length or simulator.max_steps)
        self.episode_length = -(-self._max_steps // action_repeat)
        """agent steps in a whole episode; the last one is shorter if the repeat does not divide"""
        self._pixels = pixels
        self._img_size = img_size
        self._frames: deque[np.ndarray] = deque(maxlen=frame_stack)
        self._steps_left = 0
        self._succeeded = False
        self.action_space = gym.spaces.Box(-1.0, 1.0, (simulator.action_dim,), np.float32)
        self.obs_shape: tuple[int, ...]
        if pixels:
            self.obs_shape = (3 * frame_stack, img_size, img_size)
            self.observation_space = gym.spaces.Box(0, 255, self.obs_shape, np.uint8)
        else:
            self.obs_shape = (simulator.state_dim,)
            self.observation_space = gym.spaces.Box(-np.inf, np.inf, self.obs_shape, np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode.

        With a seed (0 to 2**32 - 1) the episode is a function of it alone, bit for bit; without
        one, its seed is drawn from ``np_random``. ``options`` is ignored.
        """
        super().reset(seed=seed)
        episode_seed = int(self.np_random.integers(2**32)) if seed is None else int(seed)
        self._steps_left = 0
        self.simulator.reset(episode_seed)
        self._steps_left = self._max_steps
        self._succeeded = False
        self._frames.clear()
        return self._observe(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Hold ``action`` for ``action_repeat`` environment steps and sum their rewards.

        Returns observation, reward, terminated, truncated and info; info has ``env_steps``, the
        steps taken (fewer than the repeat at the episode's end), and where the suite reports it
        ``success`` (after the last of the repeated steps) and ``success_any`` (after any
        environment step of the episode so far).

        Raises:
            ValueError: the action has the wrong shape.
            RuntimeError: the episode is over, or none was begun.
        """
        if np.shape(action) != self.action_space.shape:
            expected = self.action_space.shape
            raise ValueError(f"action must have shape {expected}, got {np.shape(action)}")
        if self._steps_left == 0:
            raise RuntimeError("no episode is running: call reset() before step()")
        reward = 0.0
        success: bool | None = None
        env_steps = 0
        while env_steps < self.action_repeat:
            env_steps += 1
            result = self.simulator.step(action)
            reward += result.reward
            success = result.success
            self._succeeded |= bool(success)
            over = result.terminated or result.truncated
            self._steps_left = 0 if over else self._steps_left - 1
            if self._steps_left == 0:
                break
        truncated = self._steps_left == 0 and not result.terminated
        info: dict[str, Any] = {"env_steps": env_steps}
        if success is not None:
            info["success"] = success
            info["success_any"] = self._succeeded
        return self._observe(), reward, result.terminated, truncated, info

    def examine(self) -> list[str]:
        """Try an environment that nobody here knows; a line for each thing to be told of it.

        Raises ValueError if it cannot work. Suites that are known say nothing.
        """
        examine = getattr(self.simulator, "examine", None)
        return [] if examine is None else examine()

    def flat_observation(self, obs: Any) -> np.ndarray:
        """What the environment itself calls an observation, as this one gives it."""
        if self._pixels or not isinstance(self.simulator, OwnSpaces):
            return obs
        return self.simulator.flat_observation(obs)

    def native_action(self, action: np.ndarray) -> np.ndarray:
        """An action of [-1, 1] as the environment itself takes it."""
        if not isinstance(self.simulator, OwnSpaces):
            return action
        return self.simulator.native_action(action)

    def with_native_actions(self) -> gym.Env[np.ndarray, np.ndarray]:
        """This environment, taking actions as the environment itself takes them."""
        simulator = self.simulator
        if not isinstance(simulator, OwnSpaces):
            return self
        space = simulator.native_action_space
        return gym.wrappers.TransformAction(self, simulator.agent_action, space)

    @property
    def seconds_per_step(self) -> float | None:
        """Simulated seconds in one agent step; None in suites without a clock."""
        seconds = getattr(self.simulator, "step_seconds", None)
        return None if seconds is None else self.action_repeat * float(seconds)

    def render(self, height: int = 384, width: int = 384) -> np.ndarray:
        """Image of the current state for videos, ``[height, width, 3]`` uint8."""
        return self.simulator.render(height, width)

    def close(self) -> None:
        self._steps_left = 0
        self.simulator.close()

    def _observe(self) -> np.ndarray:
        if not self._pixels:
            return self.simulator.state()
        frame = self.simulator.render(self._img_size, self._img_size).transpose(2, 0, 1)
        missing = 1 if self._frames else self._frames.maxlen or 1
        self._frames.extend([frame] * missing)
        return np.concatenate(self._frames)
