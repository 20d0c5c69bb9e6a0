"""Any Gymnasium environment with continuous actions, by its id."""

import math
import os
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Space
from gymnasium.spaces.utils import flatten, flatten_space

from difftori.envs.base import SimStep
from difftori.envs.divergence import refuse_divergence
from difftori.envs.rendering import importing_mujoco, is_headless, prepare_rendering
from difftori.sections import TaskConfig


def make_simulator(task: TaskConfig) -> "GymnasiumSimulator":
    """Make the environment whose id is ``task.domain_task``.

    Raises:
        ValueError: there is no such environment, or one that cannot be trained on; the message
            says what to do.
    """
    if task.camera:
        raise ValueError(
            f"camera={task.camera}: a Gymnasium environment chooses its camera itself, MuJoCo's by "
            "'env_kwargs={camera_id: 1}'"
        )
    return GymnasiumSimulator(
        task.domain_task,
        task.env_kwargs or {},
        pixels=task.from_pixels,
        episode_length=task.episode_length,
    )


@contextmanager
def never_exiting() -> Iterator[None]:
    """An environment that would end the process, as some do when a window closes, has failed."""
    try:
        yield
    except SystemExit as error:
        raise RuntimeError(f"it called sys.exit({error.code})") from error


class GymnasiumSimulator:
    """One environment in its own steps; see `Simulator`.

    Actions are rescaled from [-1, 1] to the environment's bounds; observations are flattened.
    """

    can_terminate = True

    def __init__(
        self,
        env_id: str,
        env_kwargs: Mapping[str, Any],
        *,
        pixels: bool = False,
        episode_length: int | None = None,
    ) -> None:
        """``episode_length`` (environment steps) stands in for a time limit that is not there."""
        self.env_id = env_id
        self._again = partial(
            GymnasiumSimulator, env_id, env_kwargs, pixels=pixels, episode_length=episode_length
        )
        self._closed = False
        self._env = env = _make(env_id, env_kwargs)
        try:
            low, high = _action_bounds(getattr(env, "action_space", None))
            if not pixels:
                _refuse_observations(getattr(env, "observation_space", None))
                self._env = gym.wrappers.FlattenObservation(env)
            limit = (env.spec and env.spec.max_episode_steps) or episode_length
            if limit is None:
                raise ValueError(
                    "it has no time limit; register it with max_episode_steps=N, or give "
                    "episode_length=N"
                )
        except ValueError as error:
            env.close()
            raise ValueError(f"env_id={env_id}: {error}") from error
        self._low, self._high = low.ravel(), high.ravel()
        self.native_action_space = env.action_space
        self._space = env.observation_space
        self.action_dim = low.size
        self.max_steps = int(limit)
        try:
            fps = float(env.metadata.get("render_fps"))  # type: ignore[arg-type]
        except (TypeError, ValueError):  # none, or a word
            fps = 0.0
        self.step_seconds = 1.0 / fps if 0 < fps < math.inf else None
        self.state_dim = 0 if pixels else math.prod(self._env.observation_space.shape or ())
        self._obs = np.zeros(self.state_dim, np.float32)

    @never_exiting()
    def reset(self, seed: int) -> None:
        obs, _ = self._env.reset(seed=seed)
        self._keep(obs)

    @never_exiting()
    def step(self, action: np.ndarray) -> SimStep:
        obs, reward, terminated, truncated, info = self._env.step(self.native_action(action))
        refuse_divergence(getattr(self._env.unwrapped, "data", None))
        self._keep(obs)
        success = info.get("is_success", info.get("success"))
        return SimStep(
            float(reward),
            terminated=bool(terminated),
            success=None if success is None else bool(success),
            truncated=bool(truncated),
        )

    def state(self) -> np.ndarray:
        """The environment's observation, flattened by Gymnasium: ``[state_dim]`` float32."""
        return self._obs.copy()

    @never_exiting()
    def render(self, height: int, width: int) -> np.ndarray:
        """The environment's picture at that size; black edges keep its proportions."""
        from PIL import Image, ImageOps

        if "mujoco" in sys.modules:
            prepare_rendering()
        if is_headless() and not os.environ.get("WAYLAND_DISPLAY"):
            os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # else pygame looks for a display
        picture = None
        with suppress(NotImplementedError):  # Gymnasium's own render()
            picture = self._env.render()
        if (
            not isinstance(picture, np.ndarray)
            or picture.shape[2:] != (3,)
            or picture.size == 0
            or not np.issubdtype(picture.dtype, np.integer)
        ):
            raise RuntimeError(
                f"env_id={self.env_id}: it gives no pictures; its render() must give an array "
                "[height, width, 3] of bytes in the render mode rgb_array, which "
                "metadata['render_modes'] must name"
            )
        if picture.shape == (height, width, 3):
            return np.array(picture, np.uint8)
        image = Image.fromarray(np.ascontiguousarray(picture, np.uint8))
        return np.array(ImageOps.pad(image, (width, height), Image.Resampling.BOX))

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            # nothing depends on an environment that is given up
            with suppress(Exception), never_exiting():
                self._env.close()

    def examine(self) -> list[str]:
        """What is wrong with the environment, a line each; see ``gymnasium_checks``."""
        from difftori.envs.gymnasium_checks import examine

        return examine(self._again)

    @property
    def unwrapped(self) -> gym.Env[Any, Any]:
        return self._env.unwrapped

    def flat_observation(self, obs: Any) -> np.ndarray:
        """The environment's own observation as ``[state_dim]`` float32."""
        if not (isinstance(obs, np.ndarray) and obs.shape == (self.state_dim,)):
            obs = flatten(self._space, obs)
        return np.array(obs, np.float32)

    def native_action(self, action: np.ndarray) -> Any:
        """From [-1, 1] ``[A]`` to the environment's own bounds, exact at both, and its shape."""
        a = np.clip(np.asarray(action, np.float64), -1.0, 1.0)
        scaled = 0.5 * ((1.0 - a) * self._low + (1.0 + a) * self._high)
        space = self.native_action_space
        return scaled.reshape(space.shape or ()).astype(space.dtype)

    def agent_action(self, action: np.ndarray) -> np.ndarray:
        """The way back, ``[A]`` float32; a coordinate that cannot move is 0."""
        width = self._high - self._low
        moved = 2 * (np.asarray(action, np.float64).ravel() - self._low) - width
        return np.divide(moved, width, out=np.zeros_like(moved), where=width > 0).astype(np.float32)

    def _keep(self, obs: Any) -> None:
        if self.state_dim == 0:
            return  # from pixels
        flat = np.array(obs, np.float32).ravel()
        if flat.size != self.state_dim:
            raise ValueError(
                f"an observation of {flat.size} numbers, and the observation space has "
                f"{self.state_dim}"
            )
        self._obs = flat


def _make(env_id: str, env_kwargs: Mapping[str, Any]) -> gym.Env[Any, Any]:
    """``gymnasium.make``, able to render if the environment is; every failure is one line."""
    if str(Path.cwd()) not in sys.path:
        # the module of one's own environment often lies there, whatever its name
        sys.path.insert(0, str(Path.cwd()))
    make = never_exiting()(gym.make)
    with warnings.catch_warnings(), _without_a_search_for_renderers():
        warnings.simplefilter("ignore")  # of a render mode that is not there, of old versions
        with suppress(Exception):  # the next attempt says what is wrong
            return make(
                env_id, **{"render_mode": "rgb_array", "disable_env_checker": True, **env_kwargs}
            )
        try:
            return make(env_id, **{"disable_env_checker": True, **env_kwargs})
        except ModuleNotFoundError as error:
            raise ValueError(
                f"env_id={env_id}: {sentence(error)} The folder of a module of your own must be "
                "the current one, or stand in PYTHONPATH"
            ) from error
        except gym.error.NameNotFound as error:
            raise ValueError(
                f"env_id={env_id}: {sentence(error)} One of a module of your own is "
                "env_id=module:Name-v0"
            ) from error
        except gym.error.Error as error:
            raise ValueError(f"env_id={env_id}: {sentence(error)}") from error
        except Exception as error:  # an environment's constructor may raise anything
            what = f"{type(error).__name__}: {sentence(error)}"
            raise ValueError(f"env_id={env_id}: {what}") from error


def _without_a_search_for_renderers() -> AbstractContextManager[None]:
    return nullcontext() if "mujoco" in sys.modules else importing_mujoco()


def _action_bounds(space: Space[Any] | None) -> tuple[np.ndarray, np.ndarray]:
    """Low and high, float64. Raises ValueError for actions that cannot be optimized."""
    if not isinstance(space, Box) or not np.issubdtype(space.dtype, np.floating):
        raise ValueError(
            f"its actions are {space}; only continuous ones work, a Box of floats: an environment "
            "with discrete actions needs a wrapper that turns a Box into them"
        )
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise ValueError(f"its actions are unbounded ({space}); give the Box finite bounds")
    if low.size == 0:
        raise ValueError("its action space is empty: there is nothing to choose")
    return low, high


def _refuse_observations(space: Space[Any] | None) -> None:
    size = 0
    if space is not None and space.is_np_flattenable:
        size = math.prod(flatten_space(space).shape or ())
    if size == 0:
        raise ValueError(
            f"its observations are {space}, which do not flatten to a vector; use Box, Discrete, "
            "or Dict and Tuple of them"
        )


def sentence(error: BaseException | str) -> str:
    """What an exception or a warning says, as one line without Gymnasium's colours."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    text = " ".join(text.split()) or type(error).__name__
    return text if text.endswith((".", "!", "?")) else f"{text}."
