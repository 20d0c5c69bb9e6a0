"""The keys that evaluate.py and watch.py share, and what they mean."""

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated, TypeVar

import numpy as np
from omegaconf import DictConfig, OmegaConf
from pydantic import Field, ValidationError

from difftori.agent import Agent, load_agent
from difftori.checkpoints.folder import read_config
from difftori.config import ConfigError, first_problem
from difftori.envs import ControlEnv
from difftori.envs.rendering import prepare_suite_rendering
from difftori.key_types import CountOrZero, Section, number
from difftori.training.evaluation import (
    FILM_FPS,
    Evaluation,
    Moment,
    evaluate,
    refuse_unless_filmed,
)
from difftori.training.seeding import derive_seed
from difftori.viewing.overlay import PlanPanel


class ViewOptions(Section):
    """Each key is commented in ``cfgs/evaluate.yaml`` and ``cfgs/watch.yaml``."""

    run: Path
    checkpoint: Path | None
    seed: CountOrZero
    plan_overlay: bool
    video_size: Annotated[int, number, Field(ge=64, le=1080)]
    fps: Annotated[float, number, Field(ge=1, le=120)] | None
    device: str

    def frame_rate(self, seconds_per_step: float | None) -> float:
        """Frames a second, one for each agent step: what is asked for, or real time."""
        return self.fps or (1 / seconds_per_step if seconds_per_step else FILM_FPS)

    def load_agent(self, *, film: bool) -> Agent:
        """The run's agent. Raises ConfigError, also if it is to be filmed and nothing renders."""
        if film:
            prepare_suite_rendering(read_config(self.run).get("suite", ""))
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
        show: Callable[[np.ndarray], None] | None,
        first_episode: int = 0,
        on_step: Callable[[int], None] = lambda step: None,
    ) -> Evaluation:
        """Score one episode in each environment; ``seed`` and an episode's number decide it.

        Args:
            show: takes the picture of each step of the first one; None draws nothing.
        """
        step = agent.trained.agent_step
        panel = PlanPanel(
            title=f"{agent.spec.task}, {agent.config.run.mode}",
            episode_length=agent.spec.episode_length,
            horizon=agent.actor.horizon_at(step),
            height=self.video_size,
        )

        def watch(moment: Moment) -> None:
            if show is not None and self.plan_overlay:
                show(np.concatenate([moment.frame, panel.draw(moment)], axis=1))
            elif show is not None:
                show(moment.frame)

        episodes = range(first_episode, first_episode + len(envs))
        return evaluate(
            agent.actor,
            envs,
            seeds=[derive_seed(self.seed, "score", episode) for episode in episodes],
            agent_step=step,
            update_step=agent.trained.update_step,
            device=agent.device,
            watch=None if show is None else watch,
            film_size=self.video_size,
            score_means=self.plan_overlay,
            on_step=on_step,
        )


Options = TypeVar("Options", bound=ViewOptions)


def read_options(cfg: DictConfig, kind: type[Options]) -> Options:
    """Check the command's keys. Raises ConfigError without ``run``, or for a bad value."""
    if OmegaConf.is_missing(cfg, "run"):
        raise ConfigError("run= is missing: a run's folder, logs/task/modality/mode/exp_name/seed")
    try:
        return kind.model_validate(OmegaConf.to_container(cfg))
    except ValidationError as error:
        raise ConfigError(first_problem(error)) from error
