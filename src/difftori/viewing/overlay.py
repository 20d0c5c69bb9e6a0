"""The panel beside a frame: the return of each step's plan, the reward and the actions."""

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from difftori.training.evaluation import Moment
from difftori.types import Plan

HEIGHT_INCHES = 7.2
ACTION_SPACING = 2.5
"""from one action dimension's zero to the next one's; an action is in [-1, 1]"""
BEFORE, AFTER, TAKEN = "#f2a65a", "#4fc3f7", "#c9ced9"
STYLE = (
    "dark_background",
    {
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlelocation": "left",
        "axes.titlesize": 11,
        "font.size": 9,
        "legend.frameon": False,
        "legend.labelcolor": "linecolor",
    },
)


class PlanPanel:
    """The panel of one episode: `draw` it once for each agent step, in order."""

    def __init__(self, *, title: str, episode_length: int, horizon: int, height: int) -> None:
        """``height`` is the panel's in pixels; its width is 7/9 of it, and even."""
        self._title = title
        self._length = episode_length
        self._horizon = horizon
        self._returns: list[tuple[float, float]] = []
        self._rewards: list[float] = []
        self._taken: list[np.ndarray] = []
        self._height = height

    def draw(self, moment: Moment) -> np.ndarray:
        """``[height, width, 3]`` uint8."""
        if moment.step > 0:
            self._rewards.append(moment.reward - sum(self._rewards))
        if moment.plan is not None:
            self._returns.append(_returns(moment.plan))
            self._taken.append(moment.plan.action[0].cpu().numpy())
        with matplotlib.style.context(STYLE):
            dpi, width = self._height / HEIGHT_INCHES, 2 * round(7 / 18 * self._height)
            # a little more, so that rounding takes no pixel off
            figure = Figure(((width + 0.1) / dpi, (self._height + 0.1) / dpi), dpi=dpi)
            canvas = FigureCanvasAgg(figure)
            grid = {"left": 0.12, "right": 0.97, "top": 0.88, "bottom": 0.07, "hspace": 0.45}
            returns, rewards, actions = figure.subplots(
                3, 1, height_ratios=(5, 2, 9), gridspec_kw=grid
            )
            step = f"step {moment.step} of {self._length}, reward so far {moment.reward:.4g}"
            figure.suptitle(f"{self._title}\n{step}", x=0.05, ha="left", size=13)
            self._draw_curves(returns, rewards)
            self._draw_actions(actions, moment.plan)
            canvas.draw()
        return np.asarray(canvas.buffer_rgba())[:, :, :3].copy()

    def _draw_curves(self, returns: Axes, rewards: Axes) -> None:
        returns.set_title("planned return G")
        before, after = np.asarray(self._returns or [(np.nan, np.nan)]).T
        for values, name, colour in ((before, "before", BEFORE), (after, "after", AFTER)):
            returns.plot(values, color=colour, marker="o", markevery=[-1], label=name)
        _add_legend(returns)
        rewards.set_title("reward of each step")
        rewards.plot(self._rewards, color=TAKEN)
        rewards.set_ylim(min([0, *self._rewards]), 1.05 * max([1, *self._rewards]))
        for axes in (returns, rewards):
            axes.set_xlim(0, self._length)

    def _draw_actions(self, axes: Axes, plan: Plan | None) -> None:
        """The actions of all dimensions, one below the other."""
        history = 3 * self._horizon
        axes.set_title("actions")
        axes.set_xlabel("agent steps from now")
        axes.set_xlim(-history, self._horizon)
        zeros = -ACTION_SPACING * np.arange(len(self._taken[0]))
        axes.set_ylim(zeros[-1] - 1.3, 1.3)
        axes.set_yticks(zeros, [f"a{i + 1}" for i in range(len(zeros))])
        axes.axvline(0, color="gray", linewidth=1)
        past = np.asarray(self._taken[-history:])
        curves = [(past, 1 - len(past), "taken", TAKEN)]
        if plan is not None:
            curves.append((plan.first_guess[:, 0].cpu().numpy(), 0, "first guess", BEFORE))
            curves.append((plan.actions[:, 0].cpu().numpy(), 0, "plan", AFTER))
        for values, first_step, name, colour in curves:
            lines = axes.plot(first_step + np.arange(len(values)), values + zeros, color=colour)
            lines[0].set_label(name)
        if plan is not None and not plan.finite[0]:
            axes.text(0.5, 0.5, "the plan is not finite", transform=axes.transAxes, color="red")
        _add_legend(axes)


def _returns(plan: Plan) -> tuple[float, float]:
    """Of row 0, before and after; the sampling planner's are those of its mean."""
    unknown: Tensor | list[float] = [float("nan")]
    before, after = (
        plan.stats.get(f"mean_return_{when}", plan.stats.get(f"plan_return_{when}", unknown))
        for when in ("before", "after")
    )
    return float(before[0]), float(after[0])


def _add_legend(axes: Axes) -> None:
    """On the title's line, at its right."""
    axes.legend(loc="lower right", bbox_to_anchor=(1.02, 0.98), ncols=3)
