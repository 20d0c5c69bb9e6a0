"""What evaluate.py does: score a finished or running run from its files, and film it."""

import json
import logging
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from difftori.agent import Agent
from difftori.checkpoints.files import write_bytes
from difftori.config import ConfigError
from difftori.monitoring.console import Console
from difftori.sections import Count
from difftori.training.evaluation import Evaluation, Moment
from difftori.viewing.options import FrameMaker, ViewOptions, read_options
from difftori.viewing.video import VideoWriter
from difftori.viewing.window import Window, require_display

logger = logging.getLogger(__name__)


class ScoreOptions(ViewOptions):
    eval_episodes: Count
    save_video: bool
    live: bool
    output: Path | None

    @property
    def films(self) -> bool:
        """Whether an mp4 is made: if it is asked for, or if there is nowhere else to draw plans."""
        return self.save_video or (self.plan_overlay and not self.live)


def score_run(cfg: DictConfig) -> int:
    """Run the episodes; writes a JSON file and, if asked, an mp4. Returns the exit code.

    Raises:
        ConfigError: an impossible value, no such run or checkpoint, or no display for ``live``.
    """
    options = read_options(cfg, ScoreOptions)
    if options.live:
        require_display(options.run)
    agent = options.load_agent(film=options.films or options.live)
    folder = options.output or options.run / "evaluation"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"output={folder} cannot be written: {error.strerror}") from error
    with Console() as console:
        console.start(agent.spec.episode_length, "agent steps", 0)
        console.phase("evaluating")
        return _run_episodes(options, agent, folder, console)


def _run_episodes(options: ScoreOptions, agent: Agent, folder: Path, console: Console) -> int:
    """Score, write and film; the exit code is 1 if all episodes failed, or the video did."""
    name = _file_name(options, agent)
    video_path = folder / f"{name}{'_plan' if options.plan_overlay else ''}.mp4"
    window, video = None, None
    with ExitStack() as stack:
        envs = [
            stack.enter_context(closing(agent.make_control_env()))
            for _ in range(options.eval_episodes)
        ]
        fps = options.frame_rate(envs[0].seconds_per_step)
        if options.live:
            window = stack.enter_context(closing(Window(agent.spec.task, fps)))
        if options.films:
            video = stack.enter_context(closing(VideoWriter(video_path, fps)))
        show = _shower(options.frame_maker(agent), window, video) if window or video else None
        result = options.evaluate(agent, envs, watch=show, on_step=console.advance)
        _write_score(options, agent, folder / f"{name}.json", result)
        if video is not None:
            try:
                video.finish()
            except OSError as error:
                logger.error(f"the video was not written: {error}")
                return 1
            logger.info(f"video: {video_path}")
    return 1 if len(result.errors) == options.eval_episodes else 0


def _shower(
    make_frame: FrameMaker, window: Window | None, video: VideoWriter | None
) -> Callable[[Moment], None]:
    """What hands each moment of the first episode to the video and to the window."""

    def show(moment: Moment) -> None:
        if video is None and (window is None or window.closed):
            return
        frame = make_frame(moment)
        if video is not None:
            video.add(frame)
        if window is not None:
            window.show(frame)

    return show


def _file_name(options: ScoreOptions, agent: Agent) -> str:
    """Less the ending; other weights, episodes or seeds replace no result."""
    if agent.trained.env_step is not None:
        weights = f"step_{agent.trained.env_step:09d}"
    else:  # they do not say
        weights = options.checkpoint.stem if options.checkpoint else "model"
    return f"{weights}_{_episodes(options.eval_episodes, '-')}_seed-{options.seed}"


def _episodes(count: int, space: str = " ") -> str:
    return f"{count}{space}episode{'' if count == 1 else 's'}"


def _write_score(options: ScoreOptions, agent: Agent, path: Path, result: Evaluation) -> None:
    rewards = [reward if np.isfinite(reward) else None for reward in result.rewards]
    summary = {
        "run": str(options.run),
        "checkpoint": str(options.checkpoint) if options.checkpoint else "latest",
        "env_step": agent.trained.env_step,
        "seed": options.seed,
        "episode_reward": result.mean_reward if np.isfinite(result.mean_reward) else None,
        "episode_reward_std": result.reward_std,
        "episode_rewards": rewards,
        "episode_success": _mean(result.successes),
        "episode_success_any": _mean(result.successes_any),
        "errors": list(result.errors),
    }
    write_bytes(path, (json.dumps(summary, indent=2) + "\n").encode())
    logger.info(
        f"reward {result.mean_reward:.1f} ± {summary['episode_reward_std']:.1f} "
        f"over {_episodes(options.eval_episodes)}; {path}"
    )
    if result.successes:
        logger.info(
            f"success {_mean(result.successes):.2f} at the last step, "
            f"{_mean(result.successes_any):.2f} at any"
        )
    for error in result.errors:
        logger.warning(f"an episode failed: {error}")


def _mean(values: tuple[float, ...]) -> float | None:
    return float(np.mean(values)) if values else None
