"""The panel beside the frame: what it shows of each plan."""

import numpy as np
import pytest
import torch

from difftori.training.evaluation import Moment
from difftori.types import Plan
from difftori.viewing.overlay import PlanPanel, PlanSnapshot

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
@pytest.mark.parametrize("action_dim", [1, 4, 21])
def test_it_is_as_high_as_the_frame_and_of_even_width(height: int, action_dim: int) -> None:
    picture = panel(action_dim, height).draw(moment(0, plan(action_dim)))
    assert picture.dtype == np.uint8
    assert picture.shape[0] == height
    assert picture.shape[1] % 2 == 0
    assert picture.shape[1] / height == pytest.approx(7 / 9, abs=0.01)


@pytest.mark.parametrize("action_dim", [2, 21])
@pytest.mark.parametrize("what", ["actions", "first_guess", "stats"])
def test_another_plan_is_another_picture(action_dim: int, what: str) -> None:
    usual = plan(action_dim)
    changes: dict[str, object] = {
        "actions": -usual.actions,
        "first_guess": -usual.first_guess,
        "stats": {**usual.stats, "plan_return_after": torch.tensor([9.0, 0.0])},
    }
    first = panel(action_dim).draw(moment(0, usual))
    other = panel(action_dim).draw(moment(0, plan(action_dim, **{what: changes[what]})))
    assert differ(first, other) > 20


def test_only_the_first_row_is_watched() -> None:
    usual = plan()
    other_row = torch.stack([usual.actions[:, 0], torch.zeros(HORIZON, 2)], dim=1)
    first = panel().draw(moment(0, usual))
    assert differ(first, panel().draw(moment(0, plan(actions=other_row)))) == 0


def test_curves_hold_the_episode_so_far() -> None:
    drawn = panel()
    for step in range(LENGTH):
        drawn.draw(moment(step, plan(step=step)))
    before, after = (line.get_ydata() for line in drawn._return_lines)
    assert list(before) == [1.0 + step**2 for step in range(LENGTH)]
    assert list(after) == [2.0 + step**2 for step in range(LENGTH)]
    assert drawn._reward_line.get_ydata() == pytest.approx([0.7] * (LENGTH - 1))
    low, high = drawn._return_axes.get_ylim()
    assert low < 1
    assert high > 2 + (LENGTH - 1) ** 2
    # one curve below the other: the second action is drawn around -2.5
    actions = plan(step=LENGTH - 1).actions[:, 0].numpy()
    curves = np.asarray(drawn._plan.get_ydata()).reshape(2, HORIZON + 1)[:, :-1]
    np.testing.assert_allclose(curves.T, actions + np.array([0.0, -2.5]))
    assert list(drawn._past.get_xdata()[: LENGTH + 1]) == list(range(1 - LENGTH, 2))


@pytest.mark.parametrize("action_dim", [2, 21])
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
    snapshot = PlanSnapshot.of(plan(stats=stats))
    assert (snapshot.return_before, snapshot.return_after) == (3.0, 4.0)
    assert np.isnan(PlanSnapshot.of(plan(stats={})).return_before)


def test_the_first_step_shows_both_returns() -> None:
    picture = panel().draw(moment(0, plan())).astype(int)
    returns = picture[50:120]  # of 360 rows: between title and rewards
    for color in ((0xF2, 0xA6, 0x5A), (0x4F, 0xC3, 0xF7)):
        assert (np.abs(returns - color).max(axis=2) < 30).sum() > 4, color


def test_rewards_of_zero_have_an_axis_from_zero_to_one() -> None:
    drawn = panel()
    for step in range(3):
        drawn.draw(Moment(step, np.zeros((4, 4, 3), np.uint8), reward=0.0, plan=plan()))
    assert drawn._reward_axes.get_ylim() == pytest.approx((0, 1), abs=0.1)
