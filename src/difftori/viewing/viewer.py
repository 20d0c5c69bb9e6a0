"""Shows a scored episode: in an mp4, in a window, with what the planner thought beside it."""

from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import numpy as np

from difftori.agent import Agent
from difftori.config import ConfigError
from difftori.training.evaluation import FILM_FPS, Moment
from difftori.viewing.video import Mp4Writer
from difftori.viewing.window import NoWindowError, Window, check_display

PLAIN_SIZE, OVERLAY_SIZE = 480, 720
"""pixels, height of a picture without and with the plan beside it"""
SLOWEST_FPS, FASTEST_FPS = 5.0, 60.0
PLANNER_NAMES = {"trajectory": "trajectory optimization", "mppi": "sampling (MPPI)"}


def film_fps(wanted: float | None, seconds_per_step: float | None) -> float:
    """Frames a second, one for each agent step: what is wanted, or the simulation's own time."""
    if wanted is not None:
        return wanted
    if seconds_per_step is None:
        return float(FILM_FPS)
    return min(max(1 / seconds_per_step, SLOWEST_FPS), FASTEST_FPS)


def film_size(wanted: int | None, plan_overlay: bool) -> int:
    """Height and width of the simulator's picture, in pixels."""
    return wanted or (OVERLAY_SIZE if plan_overlay else PLAIN_SIZE)


class Viewer:
    """Hands each moment of an episode to the video and to the window, whichever are wanted.

    A video that cannot be written, as on a full disk, does not stop the episode.
    """

    def __init__(
        self,
        compose: Callable[[Moment], np.ndarray],
        *,
        video: Path | None,
        window: Window | None,
        fps: float,
    ) -> None:
        self._compose = compose
        self._window = window
        self._writer = None if video is None else Mp4Writer(video, fps)
        self.error: OSError | None = None
        """why there is no video, if one was wanted"""

    def __call__(self, moment: Moment) -> None:
        shown = self._window is not None and not self._window.closed
        filmed = self._writer is not None and self.error is None
        if not shown and not filmed:
            return
        frame = self._compose(moment)
        if self._writer is not None and filmed:
            try:
                self._writer.add(frame)
            except OSError as error:
                self.error = error
        if self._window is not None:
            self._window.show(frame)

    def __enter__(self) -> "Viewer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """The video appears here, or ``error`` says why it does not."""
        if self._writer is None:
            return
        failure = error or self.error
        try:
            self._writer.__exit__(type(failure) if failure else None, failure, traceback)
        except (OSError, ValueError) as problem:  # or no frames: the episode did not begin
            self.error = self.error or OSError(str(problem))


def composer(agent: Agent, *, size: int, plan_overlay: bool) -> Callable[[Moment], np.ndarray]:
    """What makes a picture of each moment of one episode. Raises ConfigError."""
    if not plan_overlay:
        return lambda moment: moment.frame
    try:
        from difftori.viewing.overlay import PlanPanel
    except ImportError as error:
        raise ConfigError(f"plan_overlay needs matplotlib: {error}; pip install it") from error

    planner = PLANNER_NAMES[agent.actor.planner_at(agent.agent_step)]
    panel = PlanPanel(
        title=agent.spec.task,
        subtitle=f"{agent.config.run.mode} · {planner}",
        episode_length=agent.spec.episode_length,
        action_dim=agent.spec.action_dim,
        horizon=agent.actor.horizon_at(agent.agent_step),
        height=size,
    )
    return lambda moment: np.concatenate([moment.frame, panel.draw(moment)], axis=1)


def require_window(run: Path) -> None:
    """Raise a ConfigError that says how to make a video instead if no window can be opened."""
    try:
        check_display()
    except NoWindowError as error:
        raise _video_instead(error, run) from error


def open_window(title: str, fps: float, run: Path) -> Window:
    """Raises the same ConfigError."""
    try:
        return Window(title, fps)
    except NoWindowError as error:
        raise _video_instead(error, run) from error


def _video_instead(error: NoWindowError, run: Path) -> ConfigError:
    return ConfigError(f"{error}; for a video: python src/evaluate.py run={run} save_video=true")
