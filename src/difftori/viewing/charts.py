"""The charts of the panel that shows what a planner thought.

Axes and labels are drawn once; what changes from step to step is in each chart's ``artists``,
which are animated: a full drawing leaves them out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from difftori.types import Plan

HISTORY_PER_HORIZON, LEAST_HISTORY = 3, 10
"""agent steps of taken actions that stay in view: so many times the horizon, at least so many"""
FARTHEST = 1.3
"""an action beyond this is drawn there"""

BACKGROUND, INK, FAINT = "#12151c", "#e8eaf0", "#8e98aa"
BEFORE, AFTER, TAKEN = "#f2a65a", "#4fc3f7", "#c9ced9"
TAKEN_LINE: dict[str, Any] = {"color": TAKEN, "lw": 1.4}
GUESS_LINE: dict[str, Any] = {"color": BEFORE, "lw": 1.3, "ls": "--"}
PLAN_LINE: dict[str, Any] = {"color": AFTER, "lw": 1.8, "marker": "o", "ms": 4}
LEGEND_LINE = 0.05
"""length of a legend's line, as a share of the panel's width"""
SIDE, EDGE = 0.02, 0.06
"""of a chart's steps and values, kept free between its curves and the panel's edges"""


@dataclass(frozen=True)
class Thought:
    """The plan for one agent step, of the episode that is watched."""

    return_before: float
    """G of what planning began from; NaN if it is not known"""
    return_after: float
    first_guess: np.ndarray
    """``[H, A]``"""
    actions: np.ndarray
    """``[H, A]`` the plan"""
    taken: np.ndarray
    """``[A]`` the action to execute"""
    finite: bool


def thought(plan: Plan) -> Thought:
    """Row 0 of a plan, as numbers. The sampling planner's returns are those of its mean."""
    stats, missing = plan.stats, np.zeros((0, plan.action.shape[1]))
    before = stats.get("mean_return_before", stats.get("plan_return_before"))
    after = stats.get("mean_return_after", stats.get("plan_return_after"))
    return Thought(
        return_before=_number(before),
        return_after=_number(after),
        first_guess=missing if plan.first_guess is None else _array(plan.first_guess[:, 0]),
        actions=missing if plan.actions is None else _array(plan.actions[:, 0]),
        taken=_array(plan.action[0]),
        finite=plan.finite is None or bool(plan.finite[0]),
    )


def _number(row_stat: Tensor | None) -> float:
    return float("nan") if row_stat is None else float(row_stat[0])


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy().astype(np.float64)


class ReturnChart:
    """G of each step's plan, before and after it was optimized."""

    def __init__(self, axes: Axes, length: int) -> None:
        _style(axes)
        _set_steps(axes, length)
        axes.set_title("planned return G", color=INK, size=11, loc="left", pad=20)
        axes.set_xlabel("agent step", color=FAINT, size=9, labelpad=1)
        self._axes = axes
        (self._before,) = axes.plot([], [], color=BEFORE, lw=1.4, animated=True)
        (self._after,) = axes.plot([], [], color=AFTER, lw=1.8, animated=True)
        self._dots = [
            axes.plot([], [], "o", color=color, ms=5, animated=True)[0] for color in (BEFORE, AFTER)
        ]
        place: dict[str, Any] = {
            "transform": axes.transAxes,
            "size": 10,
            "animated": True,
            "va": "bottom",
        }
        self._labels = [
            axes.text(0.0, 1.03, "", color=BEFORE, **place),
            axes.text(0.34, 1.03, "", color=AFTER, **place),
            axes.text(1.0, 1.03, "", color=INK, ha="right", **place),
        ]
        self.artists = [self._before, self._after, *self._dots, *self._labels]
        self._points: list[tuple[int, float, float]] = []
        self._span: tuple[float, float] | None = None

    def add(self, step: int, thinks: Thought) -> bool:
        """True if the axis had to grow."""
        before, after = thinks.return_before, thinks.return_after
        self._points.append((step, before, after))
        columns = np.asarray(self._points, dtype=float).T
        self._before.set_data(columns[0], columns[1])
        self._after.set_data(columns[0], columns[2])
        for dot, value in zip(self._dots, (before, after), strict=True):
            dot.set_data([step], [value])
        self._labels[0].set_text(f"before {_short(before)}")
        self._labels[1].set_text(f"after {_short(after)}")
        gain = after - before
        self._labels[2].set_text(f"gain {gain:+.3g}" if np.isfinite(gain) else "")
        span = _grown(self._span, (before, after), margin=0.3)
        changed = span != self._span
        if changed and span is not None:
            _set_values(self._axes, span)
        self._span = span
        return changed


class RewardChart:
    """The reward of each agent step."""

    def __init__(self, axes: Axes, length: int) -> None:
        _style(axes)
        _set_steps(axes, length)
        axes.set_title("reward of each step", color=INK, size=11, loc="left", pad=5)
        axes.set_xticklabels([])
        self._axes = axes
        (self._line,) = axes.plot([], [], color=TAKEN, lw=1.3, animated=True)
        self.artists = [self._line]
        self._points: list[tuple[int, float]] = []
        self._span: tuple[float, float] | None = (0.0, 1.0)
        _set_values(axes, (0.0, 1.0))

    def add(self, step: int, reward: float) -> bool:
        """``reward`` was earned on the way to ``step``; True if the axis had to grow."""
        if step == 0:
            return False
        self._points.append((step - 1, reward))
        self._line.set_data(*np.asarray(self._points, dtype=float).T)
        span = _grown(self._span, (reward,), margin=0.1)
        changed = span != self._span
        if changed and span is not None:
            _set_values(self._axes, span)
        self._span = span
        return changed


class ActionCurves:
    """Each action dimension on an axis of its own: taken so far, first guess, plan."""

    def __init__(self, figure: Figure, box: Sequence[float], action_dim: int, horizon: int) -> None:
        self._history = _history(horizon)
        left, bottom, width, height = box
        gap = 0.02
        each = (height + gap) / action_dim
        self._lines: list[list[Any]] = []
        for dim in range(action_dim):
            place = (left, bottom + each * (action_dim - 1 - dim), width, each - gap)
            axes = figure.add_axes(place)
            _style(axes)
            axes.set_ylim(-1.35, 1.35)
            axes.set_yticks([-1, 0, 1])
            axes.set_xlim(-self._history - 0.5, horizon - 0.5)
            axes.xaxis.set_major_locator(MaxNLocator(9, integer=True))
            for bound in (-1, 1):
                axes.axhline(bound, color=FAINT, lw=1.0, ls=(0, (4, 3)))
            axes.axvline(0, color=FAINT, lw=1.0)
            axes.set_ylabel(f"a{dim + 1}" if action_dim > 1 else "", color=FAINT, size=9)
            if dim < action_dim - 1:
                axes.set_xticklabels([])
            styles = (TAKEN_LINE, GUESS_LINE, PLAN_LINE)
            self._lines.append([axes.plot([], [], animated=True, **style)[0] for style in styles])
        _action_titles(figure, box)
        axes.set_xlabel("agent steps from now", color=FAINT, size=9, labelpad=1)
        self.artists = [line for lines in self._lines for line in lines]
        self._taken: list[np.ndarray] = []

    def add(self, thinks: Thought) -> None:
        past = np.asarray([*self._taken[-self._history :], thinks.taken])
        for dim, (taken, guess, plan) in enumerate(self._lines):
            taken.set_data(np.arange(1 - len(past), 1), past[:, dim])
            for line, values in ((guess, thinks.first_guess), (plan, thinks.actions)):
                line.set_data(np.arange(len(values)), values[:, dim].clip(-FARTHEST, FARTHEST))
        self._taken.append(thinks.taken)


class ActionMap:
    """All action dimensions as rows of colours: what was taken, then what is planned."""

    def __init__(self, figure: Figure, box: Sequence[float], action_dim: int, horizon: int) -> None:
        axes = figure.add_axes((box[0], box[1], box[2], box[3]))
        _style(axes)
        self._history = history = _history(horizon)
        extent = (-history - 0.5, horizon - 0.5, action_dim + 0.5, 0.5)
        self._cells = np.full((action_dim, history + horizon), np.nan)
        self._image = axes.imshow(
            self._cells, cmap="coolwarm", vmin=-1, vmax=1, aspect="auto", extent=extent,
            interpolation="nearest", animated=True,
        )  # fmt: skip
        self._now = axes.axvline(-0.5, color=INK, lw=1.5, animated=True)
        axes.xaxis.set_major_locator(MaxNLocator(9, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.set_ylabel("action dimension", color=FAINT, size=9)
        axes.set_xlabel("agent steps from now", color=FAINT, size=9, labelpad=1)
        _action_titles(figure, box, legend="blue −1 … red +1; right of the line: planned")
        self.artists = [self._image, self._now]
        self._taken: list[np.ndarray] = []

    def add(self, thinks: Thought) -> None:
        self._cells[:] = np.nan
        past = self._taken[-self._history :]
        for age, action in enumerate(reversed(past), start=1):
            self._cells[:, self._history - age] = action
        now = self._history
        self._cells[:, now : now + len(thinks.actions)] = thinks.actions.T
        self._image.set_data(self._cells)
        self._taken.append(thinks.taken)


def _history(horizon: int) -> int:
    return max(LEAST_HISTORY, HISTORY_PER_HORIZON * horizon)


def _action_titles(figure: Figure, box: Sequence[float], legend: str = "") -> None:
    top = box[1] + box[3] + 0.014
    figure.text(box[0], top, "actions", color=INK, size=11)
    if legend:
        figure.text(box[0] + box[2], top, legend, color=FAINT, size=9, ha="right")
        return
    for x, text, style in ((0.29, "taken", TAKEN_LINE), (0.48, "first guess", GUESS_LINE),
                           (0.77, "planned", PLAN_LINE)):  # fmt: skip
        begin = box[0] + box[2] * x
        ends, middle = [begin, begin + LEGEND_LINE], [top + 0.006] * 2
        figure.add_artist(Line2D(ends, middle, transform=figure.transFigure, **style))
        figure.text(ends[1] + 0.014, top, text, color=style["color"], size=10)


def _set_steps(axes: Axes, length: int) -> None:
    """All agent steps of an episode, and room for a dot at the first and the last."""
    last = max(1, length - 1)
    axes.set_xlim(-SIDE * last, (1 + SIDE) * last)


def _set_values(axes: Axes, span: tuple[float, float]) -> None:
    """``span``, and room to the panel's edges."""
    room = EDGE * (span[1] - span[0])
    axes.set_ylim(span[0] - room, span[1] + room)


def _style(axes: Axes) -> None:
    axes.set_facecolor(BACKGROUND)
    axes.tick_params(colors=FAINT, labelsize=9, length=3)
    for name, spine in axes.spines.items():
        spine.set_color(FAINT)
        spine.set_visible(name in ("left", "bottom"))


def _grown(
    span: tuple[float, float] | None, values: Sequence[float], *, margin: float
) -> tuple[float, float] | None:
    """``span``, or one with room to spare if a finite value lies outside it.

    The room keeps a climbing curve from asking for new axes at each step.
    """
    finite = [value for value in values if np.isfinite(value)]
    if not finite:
        return span
    low, high = min(finite), max(finite)
    if span is not None:
        if span[0] <= low and high <= span[1]:
            return span
        low, high = min(low, span[0]), max(high, span[1])
    room = margin * max(high - low, 1e-3 * abs(high), 1e-3)
    below = low if span is not None and low == span[0] else low - room
    above = high if span is not None and high == span[1] else high + room
    return below, above


def _short(value: float) -> str:
    return f"{value:.4g}" if np.isfinite(value) else "—"
