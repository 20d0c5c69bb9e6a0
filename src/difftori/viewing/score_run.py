"""What evaluate.py does: score a finished or running run from its files, and film it."""

import json
import logging
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from difftori.agent import Agent
from difftori.checkpoints.files import write_bytes
from difftori.config import ConfigError
from difftori.key_types import Count
from difftori.monitoring.console import Console
from difftori.training.evaluation import Evaluation
from difftori.viewing.options import ViewOptions, read_options
from difftori.viewing.video import video_writer

logger = logging.getLogger(__name__)


class ScoreOptions(ViewOptions):
    eval_episodes: Count
    save_video: bool
    output: Path | None


def score_run(cfg: DictConfig) -> int:
    """Run the episodes; writes a JSON file and, if asked, an mp4.

    Returns:
        The exit code: 1 if all episodes failed, or the video did.

    Raises:
        ConfigError: an impossible value, no such run or checkpoint, or nothing renders.
    """
    options = read_options(cfg, ScoreOptions)
    films = options.save_video or options.plan_overlay
    agent = options.load_agent(film=films)
    folder = options.output or options.run / "evaluation"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"output={folder} cannot be written: {error.strerror}") from error
    name = _file_name(options, agent)
    video = folder / f"{name}{'_plan' if options.plan_overlay else ''}.mp4"
    with Console() as console, ExitStack() as stack:
        console.start(agent.spec.episode_length, "agent steps", 0)
        console.phase("evaluating")
        envs = [
            stack.enter_context(closing(agent.make_control_env()))
            for _ in range(options.eval_episodes)
        ]
        try:
            with ExitStack() as film:
                fps = options.frame_rate(envs[0].seconds_per_step)
                show = film.enter_context(video_writer(video, fps)) if films else None
                result = options.evaluate(agent, envs, show=show, on_step=console.advance)
                _write_score(options, agent, folder / f"{name}.json", result)
        except OSError as error:
            logger.error(str(error))
            return 1
        if films:
            logger.info(f"video: {video}")
    return 1 if len(result.errors) == options.eval_episodes else 0


def _file_name(options: ScoreOptions, agent: Agent) -> str:
    """Less the ending; other env steps of training, episodes or seeds replace no result."""
    if agent.trained.env_step is not None:
        weights = f"step_{agent.trained.env_step:09d}"
    else:  # they do not say
        weights = options.checkpoint.stem if options.checkpoint else "model"
    return f"{weights}_{options.eval_episodes}-episodes_seed-{options.seed}"


def _write_score(options: ScoreOptions, agent: Agent, path: Path, result: Evaluation) -> None:
    """The JSON file, and a line of it; an episode that failed has no reward."""
    rewards = [reward for reward in result.rewards if np.isfinite(reward)]
    summary = {
        "run": str(options.run),
        "checkpoint": str(options.checkpoint or "latest"),
        "env_step": agent.trained.env_step,
        "seed": options.seed,
        "episode_reward": _mean(rewards),
        "episode_reward_std": result.reward_std if rewards else None,
        "episode_rewards": rewards,
        "episode_success": _mean(result.successes),
        "episode_success_any": _mean(result.successes_any),
        "plans_not_finite": result.plans_not_finite,
        "errors": result.errors,
    }
    write_bytes(path, (json.dumps(summary, indent=2) + "\n").encode())
    spread = f"{result.mean_reward:.4g} ± {result.reward_std:.3g}" if rewards else "unknown"
    logger.info(f"reward {spread} over {len(rewards)} episodes; {path}")
    if result.successes:
        logger.info(
            f"success {np.mean(result.successes):.2f} at the last step, "
            f"{np.mean(result.successes_any):.2f} at any"
        )
    if result.plans_not_finite:
        logger.warning(result.stood_still)
    for error in result.errors:
        logger.warning(f"an episode failed: {error}")


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
