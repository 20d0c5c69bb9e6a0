"""Watching a run's agent in a window, episode after episode."""

import sys
from itertools import count
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from difftori.agent import load_agent, read_options
from difftori.sections import Count, CountOrZero, FilmSize, FramesPerSecond, Section
from difftori.training.evaluation import Moment, evaluate
from difftori.training.seeding import derive_seed
from difftori.viewing.viewer import composer, film_fps, film_size, open_window, require_window


class WatchConfig(Section):
    run: Path
    checkpoint: Path | None
    episodes: Count | None
    seed: CountOrZero
    plan_overlay: bool
    video_size: FilmSize | None
    fps: FramesPerSecond | None
    device: str
    threads: Count | None


class _ClosedError(Exception):
    """The user has closed the window."""


def watch(cfg: DictConfig) -> int:
    """Show episodes until the window is closed or ``episodes`` are over; returns the exit code.

    Raises:
        ConfigError: an impossible value, no such run or checkpoint, or no display.
    """
    options = read_options(cfg, WatchConfig)
    require_window(options.run)
    print(f"loading {options.run}", flush=True)
    agent = load_agent(
        options.run,
        options.checkpoint,
        device=options.device,
        threads=options.threads,
        film=True,
    )
    size = film_size(options.video_size, options.plan_overlay)
    env = agent.make_env()
    fps = film_fps(options.fps, env.seconds_per_step)
    episodes = count() if options.episodes is None else range(options.episodes)
    try:
        with open_window(agent.spec.task, fps, options.run) as window:
            for episode in episodes:
                compose = composer(agent, size=size, plan_overlay=options.plan_overlay)

                def show(moment: Moment, compose: Any = compose) -> None:
                    window.show(compose(moment))
                    if window.closed:
                        raise _ClosedError

                result = evaluate(
                    agent.actor,
                    [env],
                    seeds=[derive_seed(options.seed, "score", episode)],
                    agent_step=agent.agent_step,
                    update_step=agent.update_step,
                    device=agent.device,
                    watch=show,
                    film_size=size,
                    score_means=options.plan_overlay,
                )
                print(f"episode {episode + 1}: reward {result.rewards[0]:.1f}", flush=True)
                if result.errors:
                    print(f"error: the episode failed: {result.errors[0]}", file=sys.stderr)
                    return 1
    except _ClosedError:
        pass
    finally:
        env.close()
    return 0
