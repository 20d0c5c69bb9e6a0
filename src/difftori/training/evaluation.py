"""Evaluating an agent: its episodes are stepped side by side, with one batched plan per step."""

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch

from difftori.config import ConfigError
from difftori.devices import download, upload
from difftori.envs import ControlEnv
from difftori.envs.base import check_values
from difftori.monitoring.status import describe, describe_failure
from difftori.planning.actor import Actor
from difftori.training.seeding import generator
from difftori.types import Plan

logger = logging.getLogger(__name__)

FILM_SIZE = 384
"""pixels, height and width of a training run's videos"""
FILM_FPS = 25
"""frames a second; there is one for each agent step"""


@dataclass(frozen=True)
class Moment:
    """The first episode at one of its agent steps, for whoever watches."""

    step: int
    """agent steps taken so far"""
    frame: np.ndarray
    """``[height, width, 3]`` uint8"""
    reward: float
    """so far"""
    plan: Plan | None
    """what was decided here, in row 0; None at the end of the episode"""


@dataclass(frozen=True)
class Evaluation:
    rewards: tuple[float, ...]
    """of each episode; NaN where its environment failed"""
    successes: tuple[float, ...]
    """at the last step of each episode that did not fail; empty where the suite knows none"""
    successes_any: tuple[float, ...]
    """the same at any step"""
    errors: tuple[str, ...]
    """what failed environments said"""
    plans_not_finite: int
    """agent steps, of all episodes, in which the agent stood still for that"""

    @property
    def mean_reward(self) -> float:
        return float(np.nanmean(self.rewards)) if np.isfinite(self.rewards).any() else float("nan")

    @property
    def stood_still(self) -> str:
        """In words."""
        return f"the agent stood still in {self.plans_not_finite} steps: its plan was not finite"

    @property
    def reward_std(self) -> float:
        return float(np.nanstd(self.rewards)) if np.isfinite(self.rewards).any() else float("nan")


@dataclass
class _Row:
    """One of the episodes; a failing environment ends its own episode only."""

    env: ControlEnv
    obs: np.ndarray
    reward: float = 0.0
    success: float | None = None
    success_any: float | None = None
    done: bool = False
    error: str | None = None

    @classmethod
    def start(cls, env: ControlEnv, seed: int) -> "_Row":
        """Begin an episode; one that cannot be begun is over."""
        row = cls(env, np.zeros(env.observation_space.shape or (), env.observation_space.dtype))
        try:
            obs, _ = env.reset(seed=seed)
            check_values(obs)
        except Exception as error:  # a simulator may raise anything, and training must go on
            row.fail(error)
        else:
            row.obs = obs
        return row

    def fail(self, error: Exception) -> None:
        self.error, self.reward, self.done = describe_failure(error), float("nan"), True

    def advance(self, action: np.ndarray) -> None:
        if self.done:
            return
        try:
            obs, reward, terminated, truncated, info = self.env.step(action)
            check_values(obs, reward)
        except Exception as error:  # a simulator may raise anything, and training must go on
            self.fail(error)
            return
        self.obs = obs
        self.reward += float(reward)
        self.done = terminated or truncated
        if "success" in info:
            self.success = float(info["success"])
            self.success_any = float(info["success_any"])


def evaluate(
    actor: Actor,
    envs: Sequence[ControlEnv],
    *,
    seeds: Sequence[int],
    agent_step: int,
    update_step: int,
    device: torch.device,
    watch: Callable[[Moment], None] | None = None,
    film_size: int = FILM_SIZE,
    score_means: bool = False,
    on_step: Callable[[int], None] = lambda step: None,
) -> Evaluation:
    """Run one episode in each environment, without exploration.

    Args:
        seeds: of each episode; they decide its environment and its planner's noise.
        agent_step: of the training so far; it decides planner and horizon.
        update_step: of the last model update; it decides the sampling planner's std.
        watch: shown each step of the first episode; None films nothing.
        film_size: height and width of its frames.
        score_means: ask the sampling planner for the returns of its mean too.
        on_step: called after each step with the number of steps done.
    """
    rows = [_Row.start(env, seed) for env, seed in zip(envs, seeds, strict=True)]
    generators = [generator(device, seed, "evaluation") for seed in seeds]
    carry = None
    step = plans_not_finite = 0

    def show(plan: Plan | None) -> None:
        nonlocal watch
        if watch is None:
            return
        try:
            frame = rows[0].env.render(film_size, film_size)
        except Exception as error:  # a renderer may raise anything, and training must go on
            logger.warning(f"the video stops here: a picture failed with {error!r}")
            watch = None
        else:
            watch(Moment(step, frame, rows[0].reward, plan))

    while not all(row.done for row in rows):
        obs = upload(torch.from_numpy(np.stack([row.obs for row in rows])), device)
        plan = actor.act(
            obs,
            episode_start_step=agent_step,
            update_step=update_step,
            carry=carry,
            explore=False,
            generators=generators,
            score_means=score_means,
        )
        carry = plan.carry
        watched = not rows[0].done
        if watched:
            show(plan)
        actions, finite = download(plan.action, plan.finite)
        for row, action, is_finite in zip(rows, actions.numpy(), finite.tolist(), strict=True):
            plans_not_finite += not (row.done or is_finite)
            row.advance(action)
        step += 1
        if watched and rows[0].done and rows[0].error is None:
            show(None)
        on_step(step)
    whole = [row for row in rows if row.error is None]
    # an environment may speak of success only where there is one
    judged = whole if any(row.success is not None for row in whole) else []
    return Evaluation(
        rewards=tuple(row.reward for row in rows),
        successes=tuple(row.success or 0.0 for row in judged),
        successes_any=tuple(row.success_any or 0.0 for row in judged),
        errors=tuple(row.error for row in rows if row.error is not None),
        plans_not_finite=plans_not_finite,
    )


def refuse_unless_filmed(env: ControlEnv) -> None:
    """Take one picture. Raises ConfigError if there is none."""
    try:
        env.reset(seed=0)
        env.render(64, 64)
    except Exception as error:  # the renderer may raise anything
        raise ConfigError(
            f"the environment cannot be filmed: {str(error) or describe(error)}"
        ) from error


def close_quietly(env: ControlEnv) -> None:
    """Close an environment, also one that has failed and fails at that too."""
    with suppress(Exception):
        env.close()
