"""The panel beside a frame: the return of each step's plan, the reward and the actions."""

from dataclasses import dataclass

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from torch import Tensor

from difftori.training.evaluation import Moment
from difftori.types import Plan

HEIGHT_INCHES, WIDTH_INCHES = 7.2, 5.6
ACTION_SPACING = 2.5
"""from one action dimension's zero to the next one's; an action is in [-1, 1]"""
FARTHEST_ACTION = 1.2
"""a planned action beyond this is drawn there"""
MOST_ACTION_LABELS = 8

FAINT, ALARM, BEFORE, AFTER, TAKEN = "#8e98aa", "#ff6b6b", "#f2a65a", "#4fc3f7", "#c9ced9"
STYLE = (
    "dark_background",
    {
        "figure.facecolor": "#12151c",
        "axes.facecolor": "#12151c",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlelocation": "left",
        "axes.titlesize": 11,
        "font.size": 9,
        "legend.frameon": False,
        "legend.fontsize": 10,
        "legend.labelcolor": "linecolor",
    },
)


@dataclass(frozen=True)
class PlanSnapshot:
    """The plan of one agent step, as numbers that can be drawn: NaN where one is not finite."""

    return_before: float
    """G of what planning began from; NaN if it is not known"""
    return_after: float
    first_guess: np.ndarray
    """``[H, A]``, or ``[0, A]`` where the planner has none"""
    actions: np.ndarray
    """``[H, A]`` the plan, or ``[0, A]``"""
    taken: np.ndarray
    """``[A]`` the action to execute"""
    finite: bool

    @classmethod
    def of(cls, plan: Plan) -> "PlanSnapshot":
        """Row 0 of a plan. The sampling planner's returns are those of its mean."""
        stats, none = plan.stats, plan.action[:0]
        before = stats.get("mean_return_before", stats.get("plan_return_before"))
        after = stats.get("mean_return_after", stats.get("plan_return_after"))
        return cls(
            return_before=float("nan") if before is None else float(_array(before[0])),
            return_after=float("nan") if after is None else float(_array(after[0])),
            first_guess=_array(none if plan.first_guess is None else plan.first_guess[:, 0]),
            actions=_array(none if plan.actions is None else plan.actions[:, 0]),
            taken=_array(plan.action[0]),
            finite=plan.finite is None or bool(plan.finite[0]),
        )


def _array(tensor: Tensor) -> np.ndarray:
    values = tensor.detach().cpu().numpy().astype(np.float64)
    return np.where(np.isfinite(values), values, np.nan)


class PlanPanel:
    """The panel of one episode: `draw` it once for each agent step, in order."""

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
        """``height`` is the panel's in pixels; its width is 7/9 of it, and even."""
        self._length = episode_length
        self._history = max(10, 3 * horizon)
        self._returns: list[tuple[float, float]] = []
        self._rewards: list[float] = []
        self._taken: list[np.ndarray] = []
        dpi = height / HEIGHT_INCHES
        width = 2 * round(WIDTH_INCHES * dpi / 2)
        with matplotlib.style.context(STYLE):
            # matplotlib cuts a part of a pixel off
            figure = Figure(((width + 0.1) / dpi, (height + 0.1) / dpi), dpi=dpi)
            self._canvas = FigureCanvasAgg(figure)
            figure.text(0.05, 0.965, title, size=15, weight="bold", va="center")
            figure.text(0.05, 0.93, subtitle, color=FAINT, size=10, va="center")
            self._header = figure.text(0.97, 0.965, "", size=13, ha="right", va="center")
            self._status = figure.text(0.97, 0.93, "", size=10, ha="right", va="center")
            grid = {"left": 0.12, "right": 0.97, "top": 0.865, "bottom": 0.065, "hspace": 0.42}
            axes = figure.subplots(3, 1, height_ratios=(5, 2, 9), gridspec_kw=grid)
            self._return_axes, self._reward_axes, action_axes = axes
            self._begin_curves()
            self._begin_actions(action_axes, action_dim, horizon)

    def _begin_curves(self) -> None:
        """Titles, legend and empty curves of returns and rewards."""
        returns, rewards = self._return_axes, self._reward_axes
        returns.set_title("planned return G", pad=8)
        returns.tick_params(labelbottom=False)
        self._return_lines = [
            returns.plot([], [], color=color, lw=1.6, marker="o", ms=5, markevery=[-1], label=name)[
                0
            ]
            for name, color in (("before", BEFORE), ("after", AFTER))
        ]
        self._return_labels = _legend(returns).get_texts()
        rewards.set_title("reward of each step")
        rewards.set_xlabel("agent step", labelpad=1)
        (self._reward_line,) = rewards.plot([], [], color=TAKEN, lw=1.3)
        rewards.plot([0, 0], [0, 1], alpha=0)  # the least that its axis holds
        for axes in (returns, rewards):
            axes.set_xlim(-0.02 * self._length, 1.02 * self._length)

    def _begin_actions(self, axes: Axes, action_dim: int, horizon: int) -> None:
        """The axes of all action dimensions, one below the other."""
        axes.set_title("actions", pad=8)
        axes.set_xlabel("agent steps from now", labelpad=1)
        axes.set_xlim(-self._history - 0.5, horizon - 0.5)
        axes.locator_params(axis="x", integer=True)
        self._zeros = -ACTION_SPACING * np.arange(action_dim)
        axes.set_ylim(self._zeros[-1] - 1.3, 1.3)
        every = -(-action_dim // MOST_ACTION_LABELS)
        axes.set_yticks(self._zeros[::every], [f"a{i + 1}" for i in range(0, action_dim, every)])
        bounds = np.concatenate([self._zeros - 1, self._zeros + 1])
        axes.hlines(bounds, *axes.get_xlim(), color=FAINT, lw=0.6, alpha=min(0.6, 3 / action_dim))
        axes.axvline(0, color=FAINT, lw=1.0)
        (self._past,) = axes.plot([], [], color=TAKEN, lw=1.4, label="taken")
        (self._guess,) = axes.plot([], [], color=BEFORE, lw=1.3, ls="--", label="first guess")
        (self._plan,) = axes.plot([], [], color=AFTER, lw=1.8, marker="o", ms=3, label="plan")
        _legend(axes)

    def draw(self, moment: Moment) -> np.ndarray:
        """``[height, width, 3]`` uint8."""
        snapshot = None if moment.plan is None else PlanSnapshot.of(moment.plan)
        if moment.step > 0:
            self._rewards.append(moment.reward - sum(self._rewards))
            self._reward_line.set_data(range(len(self._rewards)), self._rewards)
        if snapshot is not None:
            self._add_returns(snapshot)
            self._taken.append(snapshot.taken)
            past = np.asarray(self._taken[-self._history - 1 :])
            self._set_actions(self._past, past, first_step=1 - len(past))
            self._set_actions(self._guess, snapshot.first_guess)
            self._set_actions(self._plan, snapshot.actions)
        for axes in (self._return_axes, self._reward_axes):
            axes.relim()
            axes.autoscale_view()
        broken = snapshot is not None and not snapshot.finite
        note = "plan not finite, stands still · " if broken else ""
        self._header.set_text(f"reward so far {moment.reward:.1f}")
        self._status.set_text(f"{note}step {moment.step} of {self._length}")
        self._status.set_color(ALARM if broken else FAINT)
        with matplotlib.style.context(STYLE):  # new ticks take their colours from it
            self._canvas.draw()
        return np.asarray(self._canvas.buffer_rgba())[:, :, :3].copy()

    def _add_returns(self, snapshot: PlanSnapshot) -> None:
        self._returns.append((snapshot.return_before, snapshot.return_after))
        columns = np.asarray(self._returns).T
        for line, label, values in zip(
            self._return_lines, self._return_labels, columns, strict=True
        ):
            line.set_data(range(len(values)), values)
            value = f"{values[-1]:.4g}" if np.isfinite(values[-1]) else "—"
            label.set_text(f"{line.get_label()} {value}")

    def _set_actions(self, line: Line2D, actions: np.ndarray, first_step: int = 0) -> None:
        """``[T, A]`` as A curves, one below the other; a NaN parts each from the next."""
        curves = np.full((len(self._zeros), len(actions) + 1), np.nan)
        curves[:, :-1] = actions.clip(-FARTHEST_ACTION, FARTHEST_ACTION).T
        steps = first_step + np.arange(len(actions) + 1)
        line.set_data(np.tile(steps, len(curves)), (curves + self._zeros[:, None]).ravel())


def _legend(axes: Axes) -> Legend:
    """On the title's line, at its right."""
    return axes.legend(loc="lower right", bbox_to_anchor=(1.02, 0.98), ncols=3, handlelength=1.5)
