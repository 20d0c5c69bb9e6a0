"""The panel beside the frame: what it shows, and that drawing a part of it is drawing it all."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from difftori.training.evaluation import Moment
from difftori.types import Plan
from difftori.viewing.charts import AFTER, BEFORE, ReturnChart, RewardChart, thought
from difftori.viewing.overlay import PlanPanel

LENGTH, HORIZON = 8, 3


def panel(action_dim: int = 2, height: int = 360) -> PlanPanel:
    return PlanPanel(
        title="cup-catch",
        subtitle="back_plan",
        episode_length=LENGTH,
        action_dim=action_dim,
        horizon=HORIZON,
        height=height,
    )


def plan(action_dim: int = 2, step: int = 0, **changes: object) -> Plan:
    """A plan for two rows, of which the first is watched."""
    actions = torch.linspace(-1.1, 1.1, HORIZON * 2 * action_dim)
    actions = actions.reshape(HORIZON, 2, action_dim).roll(step, dims=0)
    fields: dict[str, object] = {
        "action": actions[0].clamp(-1, 1),
        "actions": actions,
        "first_guess": 0.5 * actions,
        "stats": {
            "plan_return_before": torch.tensor([1.0 + step**2, -5.0]),
            "plan_return_after": torch.tensor([2.0 + step**2, -5.0]),
        },
    }
    return Plan(**(fields | changes))


def moment(step: int, made: Plan | None) -> Moment:
    return Moment(step, np.zeros((4, 4, 3), np.uint8), reward=0.7 * step, plan=made)


def differ(first: np.ndarray, second: np.ndarray) -> int:
    return int((first != second).any(axis=2).sum())


@pytest.mark.parametrize("height", [180, 333, 720])
@pytest.mark.parametrize("action_dim", [1, 4, 5])
def test_it_is_as_high_as_the_frame_and_of_even_width(height: int, action_dim: int) -> None:
    picture = panel(action_dim, height).draw(moment(0, plan(action_dim)))
    assert picture.dtype == np.uint8
    assert picture.shape[0] == height
    assert picture.shape[1] % 2 == 0
    assert picture.shape[1] / height == pytest.approx(7 / 9, abs=0.01)


@pytest.mark.parametrize("action_dim", [2, 5])
def test_drawing_over_the_axes_is_drawing_everything(action_dim: int) -> None:
    blitted, whole = panel(action_dim), panel(action_dim)
    for step in range(LENGTH):
        now = moment(step, plan(action_dim, step))
        first = blitted.draw(now)
        whole._empty = None
        assert differ(first, whole.draw(now)) == 0, step


@pytest.mark.parametrize("action_dim", [2, 5])
@pytest.mark.parametrize("what", ["actions", "stats"])
def test_another_plan_is_another_picture(action_dim: int, what: str) -> None:
    usual = plan(action_dim)
    changes = {
        "actions": {"actions": -usual.actions},
        "stats": {"stats": {**usual.stats, "plan_return_after": torch.tensor([9.0, 0.0])}},
    }
    first = panel(action_dim).draw(moment(0, usual))
    other = panel(action_dim).draw(moment(0, plan(action_dim, **changes[what])))
    assert differ(first, other) > 20


def test_only_the_first_row_is_watched() -> None:
    usual = plan()
    other_row = torch.stack([usual.actions[:, 0], torch.zeros(HORIZON, 2)], dim=1)
    first = panel().draw(moment(0, usual))
    assert differ(first, panel().draw(moment(0, plan(actions=other_row)))) == 0


@pytest.mark.parametrize("action_dim", [2, 5])
def test_plans_that_are_not_numbers_are_drawn_as_far_as_they_go(action_dim: int) -> None:
    nan = torch.full((HORIZON, 2, action_dim), torch.nan)
    broken = plan(
        action_dim,
        actions=nan,
        first_guess=nan,
        finite=torch.tensor([False, True]),
        stats={"plan_return_after": torch.tensor([torch.inf, 0.0])},
    )
    bare = Plan(action=torch.zeros(2, action_dim))
    drawn = panel(action_dim)
    pictures = [drawn.draw(moment(i, p)) for i, p in enumerate([broken, bare, broken, None])]
    assert differ(pictures[0], pictures[1]) > 0


def test_the_sampling_planners_returns_are_those_of_its_mean() -> None:
    stats = {
        "plan_return_after": torch.tensor([9.0, 0.0]),
        "mean_return_before": torch.tensor([3.0, 0.0]),
        "mean_return_after": torch.tensor([4.0, 0.0]),
    }
    seen = thought(plan(stats=stats))
    assert (seen.return_before, seen.return_after) == (3.0, 4.0)
    assert np.isnan(thought(plan(stats={})).return_before)


def test_the_first_step_shows_both_returns() -> None:
    picture = panel().draw(moment(0, plan())).astype(int)
    returns = picture[60:120]  # of 360 rows; below the chart's labels
    for color in (BEFORE, AFTER):
        wanted = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
        assert (np.abs(returns - wanted).max(axis=2) < 30).sum() > 4, color


def test_curves_keep_off_the_panels_edges() -> None:
    chart = ReturnChart(Figure().add_axes((0, 0, 1, 1)), LENGTH)
    for step in range(LENGTH):
        chart.add(step, thought(plan(step=step)))
        low, high = chart._axes.get_ylim()
        room = 0.04 * (high - low)
        assert low + room < 1
        assert 2 + step**2 < high - room
    left, right = chart._axes.get_xlim()
    assert left < 0
    assert right > LENGTH - 1


def test_rewards_of_zero_have_an_axis_from_zero_to_one() -> None:
    chart = RewardChart(Figure().add_axes((0, 0, 1, 1)), LENGTH)
    grown = [chart.add(step, 0.0) for step in range(LENGTH)]
    assert not any(grown)
    assert chart._axes.get_ylim() == pytest.approx((0, 1), abs=0.1)
    assert chart.add(LENGTH, 3.0)
    assert chart._axes.get_ylim()[1] > 3.1


def test_the_legend_is_drawn_as_the_curves_are() -> None:
    drawn = panel()
    legend = [line.get_linestyle() for line in drawn._canvas.figure.artists]
    curves = [line.get_linestyle() for line in drawn._actions.artists[:3]]
    assert legend == curves == ["-", "--", "-"]
