"""What watch.py does: show a run's agent in a window, episode after episode."""

import logging
from contextlib import closing
from itertools import count

from omegaconf import DictConfig

from difftori.agent import Agent
from difftori.envs import ControlEnv
from difftori.monitoring.console import Console
from difftori.sections import Count
from difftori.training.evaluation import Moment
from difftori.viewing.options import FrameMaker, ViewOptions, read_options
from difftori.viewing.window import Window, require_display

logger = logging.getLogger(__name__)


class WatchOptions(ViewOptions):
    episodes: Count | None


class WindowClosedError(Exception):
    """The user has closed the window."""


def watch_run(cfg: DictConfig) -> int:
    """Show episodes until the window is closed or ``episodes`` are over; returns the exit code.

    Raises:
        ConfigError: an impossible value, no such run or checkpoint, or no display.
    """
    options = read_options(cfg, WatchOptions)
    require_display(options.run)
    with Console() as console:
        logger.info(f"loading {options.run}")
        agent = options.load_agent(film=True)
        console.phase("watching")
        with closing(agent.make_control_env()) as env:
            fps = options.frame_rate(env.seconds_per_step)
            with closing(Window(agent.spec.task, fps)) as window:
                return _show_episodes(options, agent, env, window)


def _show_episodes(options: WatchOptions, agent: Agent, env: ControlEnv, window: Window) -> int:
    for episode in count() if options.episodes is None else range(options.episodes):
        make_frame = options.frame_maker(agent)

        def show(moment: Moment, make_frame: FrameMaker = make_frame) -> None:
            window.show(make_frame(moment))
            if window.closed:
                raise WindowClosedError

        try:
            result = options.evaluate(agent, [env], first_episode=episode, watch=show)
        except WindowClosedError:
            return 0
        if result.errors:
            logger.error(f"the episode failed: {result.errors[0]}")
            return 1
        logger.info(f"episode {episode + 1}: reward {result.rewards[0]:.1f}")
    return 0
