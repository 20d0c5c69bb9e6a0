"""Acting in the training environment, one step at a time."""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from difftori.devices import download, upload
from difftori.envs import ControlEnv
from difftori.envs.base import check_values
from difftori.learning.finite import NonFiniteCounter, check_weights
from difftori.learning.plan_gradient_ways import PlanGradientWay
from difftori.model.world_model import WorldModel
from difftori.monitoring.status import describe_failure
from difftori.planning.actor import Actor
from difftori.sections import RunConfig
from difftori.training.evaluation import close_quietly
from difftori.training.seeding import derive_seed
from difftori.training.state import Averages, Counters, OpenEpisode

logger = logging.getLogger(__name__)


class EpisodeFailedError(RuntimeError):
    """The environment raised, or gave a value that cannot be learned from."""


@dataclass
class Collector:
    """Owns the training environment and the episode that is open in it.

    It hands the mode's way of using the plan's gradient each plan and each step. The run stops
    after ``max_nonfinite`` non-finite plans, or ``max_failed_episodes`` failed episodes, in a row.
    """

    actor: Actor
    model: WorldModel
    plan_gradient: PlanGradientWay
    env: ControlEnv | None
    """None after a failure, until the next episode begins"""
    make_env: Callable[[], ControlEnv]
    averages: Averages
    """takes what is worth logging of each plan"""
    generator: torch.Generator
    run: RunConfig
    open_episode: OpenEpisode | None = None

    def __post_init__(self) -> None:
        self.nonfinite_plans = NonFiniteCounter("the plan", self.run.max_nonfinite)
        self._return_limit = self.actor.return_limit
        """reaching it is warned of, once"""
        self.planned_from = self.run.seed_steps
        """agent step from which episodes are planned"""
        self.saw_reward = False
        """whether rewards differed so far, within an episode or in the sum from the first's"""
        self._first_return: float | None = None

    def is_planned(self, episode_start_step: int) -> bool:
        """Whether an episode that begins at this agent step is planned or random."""
        return episode_start_step >= self.planned_from

    def step(self, counters: Counters) -> OpenEpisode | None:
        """One agent step, in a new episode if none is open; the episode if it is over.

        Raises:
            EpisodeFailedError: the environment failed; ``drop`` the episode.
            NotFiniteError: too many non-finite plans in a row, or a weight is not finite.
        """
        episode = self._begin(counters) if self.open_episode is None else self.open_episode
        assert self.env is not None, "an episode is open without an environment"
        obs = upload(torch.from_numpy(episode.obs[-1]), self.model.device).unsqueeze(0)
        action, carry = self._plan(obs, episode, counters)
        try:
            next_obs, reward, terminated, truncated, info = self.env.step(action)
            check_values(next_obs, reward)
        except Exception as error:  # a simulator may raise anything
            what = describe_failure(error)
            raise EpisodeFailedError(f"the environment's step failed: {what}") from error
        episode.add(next_obs, action=action, reward=float(reward), terminated=bool(terminated))
        episode.carry = carry
        if "success" in info:
            episode.success = float(info["success"])
            episode.success_any = float(info["success_any"])
        counters.agent_step += 1
        counters.acted += 1
        counters.env_step += info["env_steps"]
        start = counters.episode_start_step
        if self.is_planned(start):
            self.averages.add(
                self.plan_gradient.after_step(counters.agent_step, start, counters.update_step)
            )
        if not (terminated or truncated):
            return None
        self.open_episode = None
        self._look_for_reward(episode.steps["reward"], counters.agent_step)
        return episode

    def _begin(self, counters: Counters) -> OpenEpisode:
        counters.episode_start_step = counters.agent_step
        counters.episode_start_env_step = counters.env_step
        seed = derive_seed(self.run.seed, "episode", counters.episode, counters.dropped_in_a_row)
        self.open_episode = OpenEpisode(seed=seed, obs=[self._reset(seed)])
        return self.open_episode

    def _look_for_reward(self, rewards: list[float], agent_step: int) -> None:
        """With ``seed_until_reward`` the first rewards that differ end acting at random."""
        total = float(sum(rewards))
        self._first_return = total if self._first_return is None else self._first_return
        if len(set(rewards)) > 1 or total != self._first_return:
            self.saw_reward = True
            if self.run.seed_until_reward:
                self.planned_from = min(self.planned_from, agent_step)

    def drop(self, counters: Counters, error: EpisodeFailedError) -> None:
        """Forget the open episode and the environment, which failed.

        Raises EpisodeFailedError after ``max_failed_episodes`` failures in a row.
        """
        self._forget(counters)
        if counters.dropped_in_a_row >= self.run.max_failed_episodes:
            raise EpisodeFailedError(
                f"{counters.dropped_in_a_row} episodes in a row failed, the last because {error}"
            ) from error

    def _forget(self, counters: Counters) -> None:
        """Forget the open episode; the next attempt has another seed and a new environment."""
        counters.agent_step = counters.episode_start_step
        counters.env_step = counters.episode_start_env_step
        counters.episodes_dropped += 1
        counters.dropped_in_a_row += 1
        self.open_episode = None
        self.plan_gradient.discard()
        self.close()

    def replay_open_episode(self, counters: Counters) -> bool:
        """Bring the environment to where the open episode was, by taking its actions again.

        False if it does not repeat itself exactly: the episode is dropped then.
        """
        episode = self.open_episode
        if episode is None:
            return True
        try:
            obs = [self._reset(episode.seed)]
            assert self.env is not None
            for action in episode.steps["action"]:
                obs.append(self.env.step(action)[0])
            if np.array_equal(np.stack(obs), np.stack(episode.obs)):
                return True
        except Exception as error:  # a simulator may raise anything, also where it did not before
            logger.warning(f"the environment did not repeat the interrupted episode: {error!r}")
        self._forget(counters)
        return False

    def close(self) -> None:
        if self.env is not None:
            close_quietly(self.env)
        self.env = None

    def state_dict(self) -> dict[str, Any]:
        return {
            "open_episode": None if self.open_episode is None else self.open_episode.state_dict(),
            "nonfinite_plans": self.nonfinite_plans.state_dict(),
            "planned_from": self.planned_from,
            "saw_reward": self.saw_reward,
            "first_return": self._first_return,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the state; the environment follows with ``replay_open_episode``."""
        self.nonfinite_plans.load_state_dict(state["nonfinite_plans"])
        self.planned_from = state.get("planned_from", self.run.seed_steps)  # older checkpoints
        self.saw_reward = state.get("saw_reward", True)  # older checkpoints
        self._first_return = state.get("first_return")  # older checkpoints
        episode = state["open_episode"]
        self.open_episode = (
            None if episode is None else OpenEpisode.from_state(episode, self.model.device)
        )

    def _reset(self, seed: int) -> np.ndarray:
        try:
            self.env = self.env or self.make_env()
            obs, _ = self.env.reset(seed=seed)
            check_values(obs)
        except Exception as error:  # a simulator may raise anything
            what = describe_failure(error)
            raise EpisodeFailedError(f"the environment cannot be reset: {what}") from error
        return obs

    def _plan(
        self, obs: torch.Tensor, episode: OpenEpisode, counters: Counters
    ) -> tuple[np.ndarray, torch.Tensor | None]:
        """The action ``[A]`` and the planner's carry; learns from the plan where the mode does."""
        generators = [self.generator]
        if not self.is_planned(counters.episode_start_step):
            (action,) = download(self.actor.act_randomly(generators))
            return action[0].numpy(), None
        plan = self.actor.act(
            obs,
            episode_start_step=counters.episode_start_step,
            update_step=counters.update_step,
            carry=episode.carry,
            explore=True,
            generators=generators,
            differentiate=self.plan_gradient.differentiates,
        )
        # Here, and not before, the device is waited for.
        action, finite, *stats = download(plan.action, plan.finite, *plan.stats.values())
        if not finite.all():
            check_weights(self.model)
        self.nonfinite_plans.seen(finite=bool(finite.all()))
        if finite.all():
            numbers = dict(zip(plan.stats, stats, strict=True))
            self.averages.add(numbers)
            if numbers.get("plan_return_before", -math.inf) >= self._return_limit:
                logger.warning(
                    f"a plan's return has reached value_offset={self._return_limit:g}: there the "
                    "published optimizer's steps lower it; raise value_offset"
                )
                self._return_limit = math.inf
            self.averages.add(self.plan_gradient.after_plan(obs, plan, counters.agent_step))
        return action[0].numpy(), plan.carry
