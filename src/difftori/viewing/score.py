"""Scoring a finished or running run from its files."""

import json
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from difftori.agent import Agent, load_agent, read_options
from difftori.checkpoints.files import write_bytes
from difftori.config import ConfigError
from difftori.monitoring.console import ConsoleReporter
from difftori.sections import Count, CountOrZero, FilmSize, FramesPerSecond, Section
from difftori.training.evaluation import Evaluation, evaluate
from difftori.training.seeding import derive_seed
from difftori.viewing.viewer import (
    Viewer,
    composer,
    film_fps,
    film_size,
    open_window,
    require_window,
)


class ScoringConfig(Section):
    run: Path
    checkpoint: Path | None
    eval_episodes: Count
    seed: CountOrZero
    save_video: bool
    plan_overlay: bool
    live: bool
    video_size: FilmSize | None
    fps: FramesPerSecond | None
    device: str
    threads: Count | None
    output: Path | None

    @property
    def films(self) -> bool:
        """Whether an mp4 is made: if it is asked for, or if there is nowhere else to draw plans."""
        return self.save_video or (self.plan_overlay and not self.live)


def score(cfg: DictConfig) -> int:
    """Run the episodes; writes a JSON file and, if asked, an mp4. Returns the exit code.

    Raises:
        ConfigError: an impossible value, no such run or checkpoint, or no display for ``live``.
    """
    options = read_options(cfg, ScoringConfig)
    if options.live:
        require_window(options.run)
    watched = options.films or options.live
    agent = load_agent(
        options.run,
        options.checkpoint,
        device=options.device,
        threads=options.threads,
        film=watched,
    )
    folder = options.output or options.run / "evaluation"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"output={folder} cannot be written: {error.strerror}") from error
    name = _name(options, agent)
    video = folder / f"{name}{'_plan' if options.plan_overlay else ''}.mp4"
    with ConsoleReporter() as console:
        wanted = video if options.films else None
        result, video_error = _evaluate(options, agent, wanted, console)
        _write(options, agent, folder / f"{name}.json", result, console)
        if video_error is not None:
            console.error(f"the video was not written: {video_error}")
        elif options.films:
            console.info(f"video: {video}")
    return 1 if video_error or len(result.errors) == options.eval_episodes else 0


def _name(options: ScoringConfig, agent: Agent) -> str:
    """Of the files, less their endings: other weights, episodes or seeds replace no result."""
    if agent.env_step is not None:
        weights = f"step_{agent.env_step:09d}"
    else:  # they do not say
        weights = options.checkpoint.stem if options.checkpoint else "model"
    return f"{weights}_{_episodes(options.eval_episodes, '-')}_seed-{options.seed}"


def _episodes(count: int, space: str = " ") -> str:
    return f"{count}{space}episode{'' if count == 1 else 's'}"


def _evaluate(
    options: ScoringConfig, agent: Agent, video: Path | None, console: ConsoleReporter
) -> tuple[Evaluation, OSError | None]:
    """The episodes' scores, and why there is no video if one was wanted."""
    size = film_size(options.video_size, options.plan_overlay)
    envs = [agent.make_env() for _ in range(options.eval_episodes)]
    fps = film_fps(options.fps, envs[0].seconds_per_step)
    viewer = None
    with ExitStack() as stack:
        for env in envs:
            stack.callback(env.close)
        window = None
        if options.live:
            window = stack.enter_context(open_window(agent.spec.task, fps, options.run))
        if video is not None or window is not None:
            compose = composer(agent, size=size, plan_overlay=options.plan_overlay)
            viewer = stack.enter_context(Viewer(compose, video=video, window=window, fps=fps))
        console.start(agent.spec.episode_length, "agent steps", 0)
        console.phase("evaluating")
        result = evaluate(
            agent.actor,
            envs,
            seeds=[derive_seed(options.seed, "score", i) for i in range(options.eval_episodes)],
            agent_step=agent.agent_step,
            update_step=agent.update_step,
            device=agent.device,
            watch=viewer,
            film_size=size,
            score_means=options.plan_overlay,
            on_step=console.advance,
        )
    return result, None if viewer is None else viewer.error


def _write(
    options: ScoringConfig, agent: Agent, path: Path, result: Evaluation, console: ConsoleReporter
) -> None:
    rewards = [reward if np.isfinite(reward) else None for reward in result.rewards]
    summary = {
        "run": str(options.run),
        "checkpoint": str(options.checkpoint) if options.checkpoint else "latest",
        "env_step": agent.env_step,
        "seed": options.seed,
        "episode_reward": result.mean_reward if np.isfinite(result.mean_reward) else None,
        "episode_reward_std": float(np.nanstd(result.rewards)),
        "episode_rewards": rewards,
        "episode_success": _mean(result.successes),
        "episode_success_any": _mean(result.successes_any),
        "errors": list(result.errors),
    }
    write_bytes(path, (json.dumps(summary, indent=2) + "\n").encode())
    console.info(
        f"reward {result.mean_reward:.1f} ± {summary['episode_reward_std']:.1f} "
        f"over {_episodes(options.eval_episodes)}; {path}"
    )
    if result.successes:
        console.info(
            f"success {np.mean(result.successes):.2f} at the last step, "
            f"{np.mean(result.successes_any):.2f} at any"
        )
    for error in result.errors:
        console.warn(f"an episode failed: {error}")


def _mean(values: tuple[float, ...]) -> float | None:
    return float(np.mean(values)) if values else None
