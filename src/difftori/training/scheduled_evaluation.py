"""Evaluations of the agent in training, whenever it is time for one."""

import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from difftori.envs import ControlEnv
from difftori.monitoring.console import Console
from difftori.monitoring.metrics import Metrics
from difftori.planning.actor import Actor
from difftori.sections import EvaluationConfig, RunConfig
from difftori.training.evaluation import FILM_FPS, Evaluation, close_quietly, evaluate
from difftori.training.seeding import derive_seed
from difftori.training.state import Counters
from difftori.types import EnvSpec
from difftori.viewing.video import video_writer

logger = logging.getLogger(__name__)


@dataclass
class Evaluator:
    """Scores the agent in training: whenever ``eval_freq`` more environment steps were taken.

    It has environments and seeds of its own, so training does not depend on it.
    """

    actor: Actor
    spec: EnvSpec
    config: EvaluationConfig
    make_env: Callable[[], ControlEnv]
    device: torch.device
    run: RunConfig
    metrics: Metrics
    console: Console
    envs: list[ControlEnv] = field(default_factory=list)

    def run_if_due(self, counters: Counters, *, safe_point: Callable[[], None]) -> bool:
        """Evaluate if it is time, and log it; True if the agent is the best so far.

        ``safe_point`` is called between steps, and may raise to stop the run: the evaluation is
        then done again, equally, when the run is resumed.
        """
        env_step = counters.env_step
        passed = env_step // self.config.eval_freq
        if passed <= counters.evaluated_through:
            return False
        self.console.phase("evaluating", self.spec.episode_length)

        def on_step(step: int) -> None:
            self.console.phase_step(step)
            safe_point()

        result = self._evaluate(counters, on_step)
        counters.evaluated_through = passed
        if result is None:
            return False
        record: dict[str, Any] = {
            "env_step": env_step,
            "episode_reward": result.mean_reward,
            "episode_reward_std": result.reward_std,
            "episodes": len(result.rewards) - len(result.errors),
        }
        if result.successes:
            record["episode_success"] = float(np.mean(result.successes))
            record["episode_success_any"] = float(np.mean(result.successes_any))
        self.metrics.log(record, "eval")
        if self.config.save_video and (film := self._video_path(env_step)).exists():
            self.metrics.video(film, env_step)
        best = counters.best_reward is None or result.mean_reward > counters.best_reward
        if best and np.isfinite(result.mean_reward):
            counters.best_reward = result.mean_reward
            return True
        return False

    def _evaluate(self, counters: Counters, on_step: Callable[[int], None]) -> Evaluation | None:
        """One evaluation, None if it failed; films its first episode, if asked.

        Environments that failed are made anew for the next evaluation.
        """
        count = self.config.eval_episodes
        try:
            while len(self.envs) < count:
                self.envs.append(self.make_env())
        except Exception as error:  # a simulator may raise anything, and training must go on
            logger.warning(f"this evaluation is left out: no environment for it: {error!r}")
            return None
        path = ("evaluation", counters.episode)
        result = None
        try:
            with ExitStack() as films:
                show = self._film(counters.env_step, films)
                result = evaluate(
                    self.actor,
                    self.envs,
                    seeds=[derive_seed(self.run.seed, *path, i) for i in range(count)],
                    agent_step=counters.agent_step,
                    update_step=counters.update_step,
                    device=self.device,
                    watch=None if show is None else lambda moment: show(moment.frame),
                    on_step=on_step,
                )
        except OSError as error:
            if result is None:
                raise
            logger.warning(f"the video was not written: {error}")
        if result.plans_not_finite:
            logger.warning(result.stood_still)
        for reason in result.errors:
            logger.warning(f"an episode of the evaluation failed: {reason}")
        for env, reward in zip(list(self.envs), result.rewards, strict=True):
            if np.isnan(reward):
                self.envs.remove(env)
                close_quietly(env)
        return result

    def _film(self, env_step: int, films: ExitStack) -> Callable[[np.ndarray], None] | None:
        """What takes the pictures, None without; ``films`` ends with an OSError if some lack."""
        if not self.config.save_video:
            return None
        path = self._video_path(env_step)
        try:
            path.parent.mkdir(exist_ok=True)
            return films.enter_context(video_writer(path, FILM_FPS))
        except OSError as error:
            logger.warning(f"the video cannot be written: {error}")
            return None

    def _video_path(self, env_step: int) -> Path:
        return self.run.folder / "videos" / f"eval_{env_step:09d}.mp4"

    def close(self) -> None:
        for env in self.envs:
            close_quietly(env)
