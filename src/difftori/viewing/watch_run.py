"""What watch.py does: show a run's agent in a window, episode after episode."""

import logging
from contextlib import closing
from itertools import count

from omegaconf import DictConfig

from difftori.key_types import Count
from difftori.monitoring.console import Console
from difftori.viewing.options import ViewOptions, read_options
from difftori.viewing.window import Window, WindowClosedError, require_display

logger = logging.getLogger(__name__)


class WatchOptions(ViewOptions):
    episodes: Count | None


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
        with (
            closing(agent.make_control_env()) as env,
            closing(Window(agent.spec.task, options.frame_rate(env.seconds_per_step))) as window,
        ):
            for episode in count() if options.episodes is None else range(options.episodes):
                try:
                    result = options.evaluate(agent, [env], first_episode=episode, show=window.show)
                except WindowClosedError:
                    break
                if result.errors:
                    logger.error(f"the episode failed: {result.errors[0]}")
                    return 1
                logger.info(f"episode {episode + 1}: reward {result.rewards[0]:.4g}")
    return 0
