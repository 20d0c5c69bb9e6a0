"""Runs meet on one grid, and no value is made up outside of what was evaluated."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from report_fakes import comparison_of

from difftori.report.tables import (
    DIFFERENCE,
    aggregates,
    aligned,
    curves,
    improvements,
    profiles,
    returns,
)

TWO_TASKS = comparison_of(
    {
        ("a", "new"): [{10: 0, 20: 40}, {10: 20, 20: 60}],
        ("a", "old"): [{10: 0, 20: 10}, {10: 0, 20: 50}],
        ("b", "new"): [{10: 0, 20: 80}, {10: 0, 20: 80}],
        ("b", "old"): [{10: 0, 20: 20}, {10: 0, 30: 80}],
    }
)


def test_runs_are_interpolated_between_their_evaluations_and_nowhere_else() -> None:
    comparison = comparison_of({("a", "m"): [{10: 0, 20: 10, 50: 40}, {15: 1, 40: 2}]})
    wide = aligned(comparison.scores, ["seed"], at=[30])
    assert wide.index.tolist() == [10, 15, 20, 30, 40, 50]
    assert wide[1].tolist() == [0, 5, 10, 20, 30, 40]
    assert wide[2].round(3).fillna(-1).tolist() == [-1, 1, 1.2, 1.6, 2, -1]


def test_a_curve_has_no_interval_where_a_seed_has_no_value() -> None:
    seeds = [{10: 1, 20: 5, 30: 9}, {10: 3, 20: 7}]
    table = curves(comparison_of({("a", "m"): seeds}).scores, "mean")
    assert table["value"].tolist() == [2, 6, 9]
    assert table["ci_low"].fillna(-1).tolist() == [1, 5, -1]
    assert table["ci_high"].fillna(-1).tolist() == [3, 7, -1]
    assert table["n_seeds"].tolist() == [2, 2, 1]


def test_returns_stand_at_the_last_common_step_or_where_they_are_asked_for() -> None:
    table = returns(TWO_TASKS, "mean", ())
    assert table[["task", "method", "env_step", "value"]].to_numpy().tolist() == [
        ["a", "new", 20, 50],
        ["a", "old", 20, 30],
        ["b", "new", 20, 80],
        ["b", "old", 20, 30],
    ]
    asked = returns(TWO_TASKS, "mean", [15, 30])
    assert asked[["task", "method", "env_step", "value", "n_seeds"]].to_numpy().tolist() == [
        ["a", "new", 15, 30, 2],
        ["a", "old", 15, 15, 2],
        ["b", "new", 15, 40, 2],
        ["b", "old", 15, 15, 2],
        ["b", "old", 30, 80, 1],
    ]


def test_runs_without_a_common_step_have_no_default_row() -> None:
    assert returns(comparison_of({("a", "m"): [{10: 1}, {20: 2}]}), "mean", ()).empty


def test_an_aggregate_ends_where_a_run_ends() -> None:
    table = aggregates(TWO_TASKS, "mean").round(6)
    assert table[["method", "n_runs", "env_step", "value"]].to_numpy().tolist() == [
        ["new", 4, 10, 0.05],
        ["new", 4, 20, 0.65],
        ["old", 4, 10, 0.0],
        ["old", 4, 20, 0.3],
    ]
    assert table["ci_low"].iloc[1] == pytest.approx(0.6)
    assert table["ci_high"].iloc[1] == pytest.approx(0.7)


def test_a_published_mean_over_tasks_needs_all_of_them() -> None:
    rows = [("a", "A", 0, 10, 40), ("b", "A", 0, 10, 80), ("a", "B", 0, 10, 40)]
    published = pd.DataFrame(rows, columns=TWO_TASKS.scores.columns)
    table = aggregates(dataclasses.replace(TWO_TASKS, published=published), "mean").round(6)
    theirs = table[~table["method"].isin(TWO_TASKS.methods)]
    assert theirs[["method", "env_step", "value"]].to_numpy().tolist() == [["A", 10, 0.6]]


def test_an_aggregate_is_over_the_tasks_of_all_methods_or_of_the_one_with_most() -> None:
    runs = {("a", "m"): [{10: 1}], ("b", "m"): [{10: 1}], ("a", "n"): [{10: 1}]}
    assert aggregates(comparison_of(runs), "mean")["method"].tolist() == ["m"]
    runs |= {("b", "n"): [{10: 1}], ("c", "n"): [{10: 1}]}
    assert aggregates(comparison_of(runs), "mean")["n_tasks"].tolist() == [2, 2]


def test_published_means_are_not_among_interquartile_means_of_runs() -> None:
    rows = [(task, "paper", 0, 10, 1.0) for task in ("a", "b")]
    theirs = pd.DataFrame(rows, columns=["task", "method", "seed", "env_step", "score"])
    comparison = comparison_of({("a", "m"): [{10: 1}], ("b", "m"): [{10: 1}]}, published=theirs)
    assert aggregates(comparison, "mean")["method"].tolist() == ["m", "paper"]
    assert aggregates(comparison, "iqm")["method"].tolist() == ["m"]


def test_tasks_of_unknown_scale_or_one_task_are_not_averaged() -> None:
    unknown = comparison_of({("a", "m"): [{10: 1}], ("b", "m"): [{10: 1}]}, maximum=None)
    assert aggregates(unknown, "mean").empty
    two = dataclasses.replace(TWO_TASKS, maximum=None)
    assert improvements(two, ())[DIFFERENCE].isna().all(axis=None)
    assert profiles(unknown).empty
    assert aggregates(comparison_of({("a", "m"): [{10: 1}] * 2}), "mean").empty


def test_profiles_are_taken_at_the_last_common_step() -> None:
    table = profiles(TWO_TASKS)
    assert set(table["env_step"]) == {20}
    share = table.set_index(["method", "threshold"])["value"]
    assert share["new", 0.39] == 1
    assert share["new", 0.60] == 0.5
    assert share["new", 0.80] == 0
    assert profiles(comparison_of({("a", "m"): [{10: 1.0}]})).empty


def test_improvement_is_over_the_tasks_and_runs_that_have_a_value() -> None:
    (row,) = improvements(TWO_TASKS, ()).to_dict("records")
    assert (row["method"], row["over"], row["env_step"], row["n_tasks"]) == ("new", "old", 20, 2)
    # a: 40 and 60 against 10 and 50; b: 80 twice against 20 and 40
    assert row["value"] == pytest.approx((0.75 + 1) / 2)
    assert row["ci_low"] < row["value"] <= row["ci_high"]
    # a: 50 less 30; b: 80 less 30
    assert row["difference"] == pytest.approx((20 + 50) / 2)
    assert row["difference_ci_low"] < row["difference"] < row["difference_ci_high"]
    assert improvements(TWO_TASKS, [15, 30])["env_step"].tolist() == [15]
    assert improvements(comparison_of({("a", "x"): [{1: 1}], ("b", "y"): [{1: 1}]}), ()).empty


def test_the_interval_is_that_of_the_iqm() -> None:
    seeds = [{10: value} for value in (0, 10, 20, 1000)]
    table = curves(comparison_of({("a", "m"): seeds}).scores, "iqm")
    assert table["value"].tolist() == [15]
    assert np.isfinite(table["ci_high"].iloc[0])
