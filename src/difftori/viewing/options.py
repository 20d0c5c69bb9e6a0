"""The keys that evaluate.py and watch.py share, and what they mean."""

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from pydantic import ValidationError

from difftori.agent import Agent, load_agent
from difftori.checkpoints.folder import read_config
from difftori.config import ConfigError, one_line
from difftori.envs import ControlEnv
from difftori.envs.rendering import prepare_suite_rendering
from difftori.sections import Count, CountOrZero, FilmSize, FramesPerSecond, Section
from difftori.training.evaluation import (
    FILM_FPS,
    Evaluation,
    Moment,
    evaluate,
    refuse_unless_filmed,
)
from difftori.training.seeding import derive_seed

FrameMaker = Callable[[Moment], np.ndarray]

PLAIN_SIZE, OVERLAY_SIZE = 480, 720
"""pixels, height of a picture without and with the plan beside it"""
SLOWEST_FPS, FASTEST_FPS = 5.0, 60.0
PLANNER_NAMES = {"trajectory": "trajectory optimization", "mppi": "sampling (MPPI)"}


class ViewOptions(Section):
    """Each key is commented in ``cfgs/evaluate.yaml`` and ``cfgs/watch.yaml``."""

    run: Path
    checkpoint: Path | None
    seed: CountOrZero
    plan_overlay: bool
    video_size: FilmSize | None
    fps: FramesPerSecond | None
    device: str
    threads: Count | None

    @property
    def frame_size(self) -> int:
        """Height and width of the simulator's picture, in pixels; even, as a video needs it."""
        size = self.video_size or (OVERLAY_SIZE if self.plan_overlay else PLAIN_SIZE)
        return size + size % 2

    def frame_rate(self, seconds_per_step: float | None) -> float:
        """Frames a second, one for each agent step: what is asked for, or real time."""
        if self.fps is not None:
            return self.fps
        if seconds_per_step is None:
            return float(FILM_FPS)
        return min(max(1 / seconds_per_step, SLOWEST_FPS), FASTEST_FPS)

    def load_agent(self, *, film: bool) -> Agent:
        """The run's agent. Raises ConfigError, also if it is to be filmed and nothing renders."""
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        if film:
            try:
                prepare_suite_rendering(read_config(self.run)["suite"])
            except RuntimeError as error:
                raise ConfigError(str(error)) from error
        agent = load_agent(self.run, self.checkpoint, self.device)
        if film:
            with closing(agent.make_control_env()) as env:
                refuse_unless_filmed(env)
        return agent

    def evaluate(
        self,
        agent: Agent,
        envs: Sequence[ControlEnv],
        *,
        watch: Callable[[Moment], None] | None,
        first_episode: int = 0,
        on_step: Callable[[int], None] = lambda step: None,
    ) -> Evaluation:
        """Score one episode in each environment; ``seed`` and an episode's number decide it."""
        episodes = range(first_episode, first_episode + len(envs))
        return evaluate(
            agent.actor,
            envs,
            seeds=[derive_seed(self.seed, "score", episode) for episode in episodes],
            agent_step=agent.trained.agent_step,
            update_step=agent.trained.update_step,
            device=agent.device,
            watch=watch,
            film_size=self.frame_size,
            score_means=self.plan_overlay,
            on_step=on_step,
        )

    def frame_maker(self, agent: Agent) -> FrameMaker:
        """What makes the picture of each moment of one episode."""
        if not self.plan_overlay:
            return lambda moment: moment.frame
        from difftori.viewing.overlay import PlanPanel

        step = agent.trained.agent_step
        planner = PLANNER_NAMES[agent.actor.planner_at(step)]
        panel = PlanPanel(
            title=agent.spec.task,
            subtitle=f"{agent.config.run.mode} · {planner}",
            episode_length=agent.spec.episode_length,
            action_dim=agent.spec.action_dim,
            horizon=agent.actor.horizon_at(step),
            height=self.frame_size,
        )
        return lambda moment: np.concatenate([moment.frame, panel.draw(moment)], axis=1)


Options = TypeVar("Options", bound=ViewOptions)


def read_options(cfg: DictConfig, kind: type[Options]) -> Options:
    """Check the command's keys. Raises ConfigError without ``run``, or for a bad value."""
    if OmegaConf.is_missing(cfg, "run"):
        raise ConfigError("run= is missing: a run's folder, logs/task/modality/mode/exp_name/seed")
    try:
        return kind.model_validate(OmegaConf.to_container(cfg))
    except ValidationError as error:
        raise ConfigError(one_line(error)) from error
