"""The panel beside the frame: what it shows of each plan."""

import numpy as np
import pytest
import torch

from difftori.training.evaluation import Moment
from difftori.types import Plan
from difftori.viewing.overlay import PlanPanel, _returns

HORIZON = 3


def draw(made: Plan | None, *, height: int = 240, before: Plan | None = None) -> np.ndarray:
    """The picture of a plan, or of the episode's end, which comes after ``before``."""
    panel = PlanPanel(title="cup-catch", episode_length=8, horizon=HORIZON, height=height)
    frame = np.zeros((4, 4, 3), np.uint8)
    if before is not None:
        panel.draw(Moment(0, frame, reward=0.0, plan=before))
    return panel.draw(Moment(before is not None, frame, reward=0.7, plan=made))


def plan(action_dim: int = 2, **changes: object) -> Plan:
    """A plan for two rows, of which the first is watched."""
    actions = torch.linspace(-1.1, 1.1, HORIZON * 2 * action_dim).reshape(HORIZON, 2, action_dim)
    fields: dict[str, object] = {
        "action": actions[0].clamp(-1, 1),
        "finite": torch.tensor([True, True]),
        "actions": actions,
        "first_guess": 0.5 * actions,
        "stats": {
            "plan_return_before": torch.tensor([1.0, -5.0]),
            "plan_return_after": torch.tensor([2.0, -5.0]),
        },
    }
    return Plan(**(fields | changes))


def differ(first: np.ndarray, second: np.ndarray) -> int:
    return int((first != second).any(axis=2).sum())


@pytest.mark.parametrize("height", [180, 333])
@pytest.mark.parametrize("action_dim", [1, 21])
def test_it_is_as_high_as_the_frame(height: int, action_dim: int) -> None:
    picture = draw(plan(action_dim), height=height)
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
    assert differ(draw(usual), draw(plan(action_dim, **{what: changes[what]}))) > 20


def test_only_the_first_row_is_watched() -> None:
    usual = plan()
    other_row = torch.stack([usual.actions[:, 0], torch.zeros(HORIZON, 2)], dim=1)
    assert differ(draw(usual), draw(plan(actions=other_row))) == 0


def test_what_came_before_is_in_the_picture() -> None:
    usual = plan()
    assert differ(draw(usual, before=usual), draw(usual, before=plan(action=-usual.action))) > 20
    assert differ(draw(None, before=usual), draw(usual, before=usual)) > 20


def test_plans_that_are_not_numbers_are_drawn_as_far_as_they_go() -> None:
    nan = torch.full((HORIZON, 2, 2), torch.nan)
    broken = plan(actions=nan, first_guess=nan, finite=torch.tensor([False, True]))
    fine = plan(actions=nan, first_guess=nan)
    assert differ(draw(broken), draw(fine)) > 20


def test_the_sampling_planners_returns_are_those_of_its_mean() -> None:
    stats = {
        "plan_return_after": torch.tensor([9.0, 0.0]),
        "mean_return_before": torch.tensor([3.0, 0.0]),
        "mean_return_after": torch.tensor([4.0, 0.0]),
    }
    assert _returns(plan(stats=stats)) == (3.0, 4.0)
    assert np.isnan(_returns(plan(stats={}))).all()
