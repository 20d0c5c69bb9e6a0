"""What the planner thought, drawn beside the frame.

matplotlib draws axes and legends once; at each step only the curves are drawn again over a copy
of that (blitting), which is several times as fast.
"""

from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from difftori.training.evaluation import Moment
from difftori.viewing.charts import (
    BACKGROUND,
    FAINT,
    INK,
    ActionCurves,
    ActionMap,
    ReturnChart,
    RewardChart,
    thought,
)

HEIGHT_INCHES, WIDTH_INCHES = 7.2, 5.6
MOST_CURVES = 4
"""action dimensions that get an axis each; more of them are drawn as a map of colours"""
ALARM = "#ff6b6b"


class PlanPanel:
    """A panel for one episode; `draw` once for each of its agent steps, in order."""

    def __init__(
        self,
        *,
        title: str,
        subtitle: str,
        episode_length: int,
        action_dim: int,
        horizon: int,
        height: int,
    ) -> None:
        """``height`` is the panel's in pixels; its width follows (7 to 9)."""
        self._length = episode_length
        # the encoder needs even sides
        scale = height / HEIGHT_INCHES
        width = 2 * round(WIDTH_INCHES * scale / 2)
        # sizes are cut, not rounded: a hair more than the pixels
        inches = ((width + 0.1) / scale, (height + 0.1) / scale)
        figure = Figure(inches, dpi=scale, facecolor=BACKGROUND)
        self._canvas = FigureCanvasAgg(figure)
        figure.text(0.06, 0.965, title, color=INK, size=15, weight="bold", va="center")
        figure.text(0.06, 0.932, subtitle, color=FAINT, size=10, va="center")
        self._header = figure.text(0.96, 0.965, "", color=INK, size=13, ha="right", va="center")
        self._status = figure.text(0.96, 0.932, "", color=FAINT, size=10, ha="right", va="center")
        self._returns = ReturnChart(figure.add_axes((0.13, 0.64, 0.83, 0.215)), episode_length)
        rewards = figure.add_axes((0.13, 0.50, 0.83, 0.075))
        self._rewards = RewardChart(rewards, episode_length)
        chart = ActionCurves if action_dim <= MOST_CURVES else ActionMap
        box = (0.13, 0.065, 0.83, 0.355)
        self._actions: ActionCurves | ActionMap = chart(figure, box, action_dim, horizon)
        self._artists = [self._header, self._status]
        for artist in self._artists:
            artist.set_animated(True)
        self._empty: Any = None
        self._last_reward = 0.0

    def draw(self, moment: Moment) -> np.ndarray:
        """``[height, width, 3]`` uint8."""
        step = moment.step
        thinks = None if moment.plan is None else thought(moment.plan)
        grown = self._rewards.add(step, moment.reward - self._last_reward)
        self._last_reward = moment.reward
        if thinks is not None:
            grown |= self._returns.add(step, thinks)
            self._actions.add(thinks)
        self._header.set_text(f"reward so far {moment.reward:8.1f}")
        broken = thinks is not None and not thinks.finite
        self._status.set_color(ALARM if broken else FAINT)
        note = "plan not finite, stands still · " if broken else ""
        self._status.set_text(f"{note}step {step} of {self._length}")
        return self._render(redraw=grown)

    def _render(self, *, redraw: bool) -> np.ndarray:
        canvas = self._canvas
        if redraw or self._empty is None:
            canvas.draw()
            self._empty = canvas.copy_from_bbox(canvas.figure.bbox)
        canvas.restore_region(self._empty)
        for artist in (*self._artists, *self._returns.artists, *self._rewards.artists):
            canvas.figure.draw_artist(artist)
        for artist in self._actions.artists:
            canvas.figure.draw_artist(artist)
        return np.asarray(canvas.buffer_rgba())[:, :, :3].copy()
