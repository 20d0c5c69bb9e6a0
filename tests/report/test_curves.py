"""Runs meet on one grid, and no value is made up outside of what was evaluated."""

import numpy as np
import pytest

from difftori.report.curves import Series, align, format_steps


def series(*points: tuple[int, float]) -> Series:
    steps, scores = zip(*points, strict=True)
    return Series(np.array(steps), np.array(scores, dtype=np.float64))


def test_equal_steps_are_kept_as_they_are() -> None:
    aligned = align([series((10, 1), (20, 2)), series((10, 3), (20, 5))])
    assert aligned.steps.tolist() == [10, 20]
    assert aligned.scores.tolist() == [[1, 2], [3, 5]]
    assert not aligned.interpolated
    assert aligned.complete.all()


def test_the_run_evaluated_least_often_sets_the_grid() -> None:
    often = series((10, 0), (20, 10), (30, 20), (40, 30), (50, 40))
    aligned = align([often, series((15, 1), (40, 2))])
    # as far as it reaches; behind that comes what the other has
    assert aligned.steps.tolist() == [15, 40, 50]
    assert aligned.scores[0].tolist() == [5, 30, 40]
    assert aligned.interpolated
    assert aligned.complete.tolist() == [True, True, False]


def test_nothing_is_extrapolated() -> None:
    aligned = align([series((20, 1), (30, 1)), series((10, 2), (20, 2), (30, 2), (40, 2))])
    assert np.isnan(aligned.scores[0, aligned.steps < 20]).all()
    assert np.isnan(aligned.scores[0, aligned.steps > 30]).all()


def test_a_run_with_one_evaluation_does_not_thin_the_others() -> None:
    aligned = align([series((10, 1)), series((10, 2), (20, 3), (30, 4))])
    assert aligned.steps.tolist() == [10, 20, 30]
    assert aligned.complete.tolist() == [True, False, False]
    assert not aligned.interpolated


@pytest.mark.parametrize(
    ("step", "text"),
    [(0, "0"), (512, "512"), (1792, "1,792"), (2500, "2.5k"), (20_000, "20k"), (1_500_000, "1.5M")],
)
def test_steps_are_short(step: int, text: str) -> None:
    assert format_steps(step) == text
