"""Estimates equal those of rliable 1.2.0 on the same scores."""

import numpy as np
import pytest
import scipy.stats

from difftori.report.statistics import (
    Array,
    Metric,
    aggregate,
    estimate,
    mean_difference,
    performance_profile,
    probability_of_improvement,
)

# runs × tasks
SCORES = np.array(
    [
        [0.10, 0.50, 0.90, 0.20],
        [0.30, 0.60, 0.80, 0.10],
        [0.20, 0.40, 0.95, 0.40],
        [0.70, 0.55, 0.85, 0.15],
        [0.15, 0.65, 0.99, 0.30],
    ]
)


def by_task(scores: Array) -> list[Array]:
    return [scores[:, [task]].T for task in range(scores.shape[1])]


@pytest.mark.parametrize(
    ("metric", "value", "low", "high"),
    [("mean", 0.4895, 0.437, 0.552), ("iqm", 0.46, 0.37, 0.56)],
)
def test_estimates_of_reference(metric: Metric, value: float, low: float, high: float) -> None:
    found = estimate(by_task(SCORES), metric)
    assert found.value == pytest.approx([value])
    # two draws of thousands of resamples differ in the third digit
    assert found.low == pytest.approx([low], abs=0.01)
    assert found.high == pytest.approx([high], abs=0.01)
    assert estimate(by_task(SCORES), metric) == found


def test_profile_of_reference() -> None:
    tasks = [SCORES[:, task] for task in range(4)]
    found = performance_profile(tasks, np.array([0.1, 0.5, 0.9]))
    assert found.value == pytest.approx([0.9, 0.45, 0.1])
    assert found.low == pytest.approx([0.75, 0.3, 0.0])
    assert found.high == pytest.approx([1.0, 0.6, 0.2])


def test_probability_of_improvement_is_mann_and_whitneys_u_over_the_pairs() -> None:
    """rliable's definition, and its interval: runs of both are drawn within their task."""
    x, y = SCORES, SCORES[:3, ::-1] + 0.05

    def by_definition(x: Array, y: Array) -> float:
        shares = [
            scipy.stats.mannwhitneyu(x[:, task], y[:, task]).statistic / (len(x) * len(y))
            for task in range(4)
        ]
        return float(np.mean(shares))

    rng = np.random.default_rng(1)

    def drawn(scores: Array) -> Array:
        return np.stack([rng.choice(task, len(task)) for task in scores.T], axis=1)

    samples = [by_definition(drawn(x), drawn(y)) for _ in range(500)]
    found = probability_of_improvement(by_task(x), by_task(y))
    assert found.value == pytest.approx([by_definition(x, y)])
    low, high = np.quantile(samples, [0.025, 0.975])
    assert found.low == pytest.approx([low], abs=0.04)
    assert found.high == pytest.approx([high], abs=0.04)


def test_a_tie_is_no_improvement() -> None:
    same = [np.array([[1.0, 1.0]])]
    assert probability_of_improvement(same, same).value == pytest.approx([0.5])


def test_a_difference_of_means_has_the_interval_of_two_independent_samples() -> None:
    """Its half width: 1.96 standard errors, about, for many runs."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(3.0, 1.0, (2, 1, 200)), rng.normal(1.0, 2.0, (2, 1, 100))
    found = mean_difference(list(x), list(y))
    assert found.value == pytest.approx([x.mean() - y.mean()])
    error = np.sqrt(x.var(axis=-1).sum() / 200 + y.var(axis=-1).sum() / 100) / 2
    assert found.low == pytest.approx(found.value - 1.96 * error, abs=0.03)
    assert found.high == pytest.approx(found.value + 1.96 * error, abs=0.03)


def test_the_iqm_leaves_out_the_outer_quarters() -> None:
    assert aggregate([np.array([[0.0, 1.0, 2.0, 900.0]])], "iqm") == pytest.approx([1.5])
    assert aggregate([np.array([[1.0, 2.0, 9.0]])], "iqm") == pytest.approx([4.0])


def test_runs_are_drawn_within_their_task() -> None:
    """Tasks of unlike difficulty are no uncertainty: other seeds would give the same."""
    found = estimate([np.zeros((1, 5)), np.ones((1, 5))], "mean")
    assert (found.low[0], found.high[0]) == (0.5, 0.5)


def test_tasks_count_the_same_with_more_seeds() -> None:
    assert aggregate([np.zeros((1, 9)), np.ones((1, 1))], "mean") == pytest.approx([0.5])


def test_a_task_with_one_run_has_no_interval() -> None:
    found = estimate([np.array([[4.0]]), np.array([[0.0, 1.0]])], "mean")
    assert found.value[0] == 2.25
    assert np.isnan([found.low[0], found.high[0]]).all()


def test_one_run_has_no_interval() -> None:
    found = estimate([np.array([[3.0], [4.0]])], "iqm")
    assert list(found.value) == [3.0, 4.0]
    assert np.isnan([found.low, found.high]).all()
