"""Scoring an agent: its episodes are stepped side by side, with one batched plan per step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from difftori.envs import ControlEnv
from difftori.planning.actor import Actor
from difftori.run.seeding import generator


@dataclass(frozen=True)
class Evaluation:
    rewards: tuple[float, ...]
    """of each episode; NaN where its environment failed"""
    successes: tuple[float, ...]
    """at each episode's last step; empty where the suite knows no success"""
    frames: tuple[np.ndarray, ...]
    """of the first episode, ``[height, width, 3]`` uint8, if they were asked for"""
    errors: tuple[str, ...]
    """what failed environments said"""

    @property
    def mean_reward(self) -> float:
        return float(np.nanmean(self.rewards)) if np.isfinite(self.rewards).any() else float("nan")


@dataclass
class _Row:
    env: ControlEnv
    obs: np.ndarray
    reward: float = 0.0
    success: float | None = None
    done: bool = False
    error: str | None = None


def evaluate(
    actor: Actor,
    envs: Sequence[ControlEnv],
    *,
    seeds: Sequence[int],
    agent_step: int,
    update_step: int,
    device: torch.device,
    film_size: int | None = None,
    on_step: Callable[[int], None] = lambda step: None,
) -> Evaluation:
    """Run one episode in each environment, without exploration.

    Args:
        seeds: of each episode; they decide its environment and its planner's noise.
        agent_step: of the training so far; it decides planner and horizon.
        update_step: of the last model update; it decides the sampling planner's std.
        film_size: height and width of the first episode's frames; None films nothing.
        on_step: called after each step with the number of steps done.
    """
    rows = [_start(env, seed) for env, seed in zip(envs, seeds, strict=True)]
    generators = [generator(device, seed, "evaluation") for seed in seeds]
    carry = None
    frames = [] if film_size is None else [rows[0].env.render(film_size, film_size)]
    step = 0
    while not all(row.done for row in rows):
        obs = torch.from_numpy(np.stack([row.obs for row in rows])).to(device)
        plan = actor.act(
            obs,
            episode_start_step=agent_step,
            update_step=update_step,
            carry=carry,
            explore=False,
            generators=generators,
        )
        carry = plan.carry
        for row, action in zip(rows, plan.action.cpu().numpy(), strict=True):
            _advance(row, action)
        if film_size is not None and not rows[0].done:
            frames.append(rows[0].env.render(film_size, film_size))
        step += 1
        on_step(step)
    return Evaluation(
        rewards=tuple(row.reward for row in rows),
        successes=tuple(row.success for row in rows if row.success is not None),
        frames=tuple(frames),
        errors=tuple(row.error for row in rows if row.error is not None),
    )


def _start(env: ControlEnv, seed: int) -> _Row:
    obs, _ = env.reset(seed=seed)
    return _Row(env, obs)


def _advance(row: _Row, action: np.ndarray) -> None:
    """One step of one episode; a failing environment ends its own episode only."""
    if row.done:
        return
    try:
        obs, reward, terminated, truncated, info = row.env.step(action)
    except Exception as error:  # a simulator may raise anything, and training must go on
        row.error, row.reward, row.done = repr(error), float("nan"), True
        return
    row.reward += float(reward)
    row.done = terminated or truncated
    if "success" in info:
        row.success = float(info["success"])
    if np.isfinite(obs).all():
        row.obs = obs
    else:
        row.error, row.reward, row.done = "a non-finite observation", float("nan"), True
