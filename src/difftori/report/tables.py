"""The numbers that pictures and pages show, as data frames."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from difftori.report.comparison import Comparison
from difftori.report.statistics import (
    Array,
    Estimate,
    Metric,
    aggregate,
    estimate,
    mean_difference,
    performance_profile,
    probability_of_improvement,
)

INTERVAL = ["value", "ci_low", "ci_high"]
DIFFERENCE = ["difference", "difference_ci_low", "difference_ci_high"]
RUN = ["task", "method", "seed"]
"""what tells the runs of a comparison apart"""
THRESHOLDS = np.linspace(0.0, 1.0, 101)


def aligned(scores: pd.DataFrame, by: Sequence[str], at: Sequence[int] = ()) -> pd.DataFrame:
    """Runs on one grid of env steps: all at which one of them was evaluated, and ``at``.

    Between its own evaluations a run is interpolated linearly; beyond them it has no value.

    Args:
        by: what tells the runs of ``scores`` apart.

    Returns:
        ``[T, n]``: ``env_step`` as the index, a column for each run.
    """
    wide = scores.set_index(["env_step", *by])["score"].unstack(list(by))
    wide = wide.reindex(wide.index.union(list(at)))
    return wide.interpolate(method="index", limit_area="inside")


def curves(scores: pd.DataFrame, metric: Metric, at: Sequence[int] = ()) -> pd.DataFrame:
    """Each method on each task over its seeds.

    Where a seed has no value, the others' statistic stands without an interval.

    Args:
        at: env steps; empty: all that a seed of the curve was evaluated at.

    Returns:
        ``method, task, env_step, mean, n_seeds, value, ci_low, ci_high``
    """
    frames = []
    for (task, method), rows in scores.groupby(["task", "method"], sort=False):
        wide = aligned(rows, ["seed"], at)
        wide = (wide.loc[list(at)] if at else wide).dropna(how="all")
        values, complete = wide.to_numpy(), wide.notna().all(axis=1).to_numpy()
        table = pd.DataFrame({"method": method, "task": task, "env_step": wide.index})
        table["mean"] = wide.mean(axis=1).to_numpy()
        table["n_seeds"] = wide.count(axis=1).to_numpy()
        table[INTERVAL] = np.nan
        table.loc[complete, INTERVAL] = np.stack(estimate([values[complete]], metric), axis=1)
        table.loc[~complete, "value"] = [
            float(aggregate([row[np.isfinite(row)]], metric)) for row in values[~complete]
        ]
        frames.append(table)
    return pd.concat(frames)


def returns(comparison: Comparison, metric: Metric, at: Sequence[int]) -> pd.DataFrame:
    """``curves`` at env steps ``at``; if empty, at the last that all runs of a task reached."""
    frames = []
    for task, scores in comparison.scores.groupby("task"):
        theirs = comparison.published[comparison.published["task"] == task]
        if steps := at or last_common_step(scores):
            frames.append(curves(pd.concat([scores, theirs]), metric, steps))
    return pd.concat(frames) if frames else pd.DataFrame()


def last_common_step(scores: pd.DataFrame) -> list[int]:
    """The last env step at which every run of ``scores`` has a value; empty: there is none."""
    steps = scores.groupby(RUN)["env_step"]
    first, last = int(steps.min().max()), int(steps.max().min())
    return [last] if first <= last else []


def _normalized(comparison: Comparison, scores: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """``scores`` over the largest possible, of each method that was run on all tasks compared.

    These are the tasks that all methods were run on; if fewer than two, those of the method
    with most. Nothing where the largest score is not known.
    """
    if comparison.maximum is None:
        return {}
    by_method = comparison.scores.groupby("method")["task"].agg(set)
    tasks = set.intersection(*by_method)
    if len(tasks) < 2:
        tasks = max(by_method, key=len)
    scores = scores[scores["task"].isin(tasks)]
    scores = scores.assign(score=scores["score"] / comparison.maximum)
    parts = scores.groupby("method", sort=False)
    return {str(method): part for method, part in parts if set(part["task"]) == tasks}


def aggregates(comparison: Comparison, metric: Metric) -> pd.DataFrame:
    """Each method over tasks, at the env steps at which each of its runs has a value.

    What is published are means over seeds: they have no place among interquartile means of runs.

    Returns:
        ``method, n_tasks, n_runs, env_step, value, ci_low, ci_high``; empty for fewer than two
        tasks.
    """
    frames = []
    compared = comparison.everything if metric == "mean" else comparison.scores
    for method, scores in _normalized(comparison, compared).items():
        wide = aligned(scores, ["task", "seed"]).dropna()
        strata = _strata(wide)
        if len(strata) > 1:
            who = {"method": method, "n_tasks": len(strata), "n_runs": wide.shape[1]}
            frames.append(_rows(estimate(strata, metric), **who, env_step=wide.index))
    return pd.concat(frames) if frames else pd.DataFrame()


def profiles(comparison: Comparison) -> pd.DataFrame:
    """The share of runs above ``THRESHOLDS`` at the last env step that every run reached.

    Returns:
        ``method, n_tasks, n_runs, env_step, threshold, value, ci_low, ci_high``; empty where
        there are not two runs that can be compared.
    """
    methods = _normalized(comparison, comparison.scores)
    everything = pd.concat(methods.values()) if methods else comparison.scores[:0]
    if len(everything[RUN].drop_duplicates()) < 2:
        return pd.DataFrame()
    frames = []
    for step in last_common_step(everything):
        for method, scores in methods.items():
            wide = aligned(scores, ["task", "seed"], [step]).loc[[step]]
            tasks = [task[0] for task in _strata(wide)]
            who = {"method": method, "n_tasks": len(tasks), "n_runs": wide.shape[1]}
            numbers = performance_profile(tasks, THRESHOLDS)
            frames.append(_rows(numbers, **who, env_step=step, threshold=THRESHOLDS.round(2)))
    return pd.concat(frames) if frames else pd.DataFrame()


def improvements(comparison: Comparison, at: Sequence[int]) -> pd.DataFrame:
    """How likely each method beats each of the later ones, and by how much its mean is higher.

    Over the tasks that both have. Means of several tasks of unknown scale have no difference.

    Args:
        at: env steps; empty: the last that all runs of both reached. Runs without a value at a
            step do not count there.

    Returns:
        ``method, over, env_step, n_tasks, n_runs, n_runs_over, value, ci_low, ci_high``, of the
        probability, and ``DIFFERENCE``
    """
    frames = []
    for method, other in combinations(comparison.methods, 2):
        scores = comparison.scores[comparison.scores["method"].isin([method, other])]
        scores = scores[scores.groupby("task")["method"].transform("nunique") == 2]
        if scores.empty:
            continue
        for step in at or last_common_step(scores):
            there = aligned(scores, RUN, [step]).loc[step].dropna()
            runs = {key: g.to_numpy()[None] for key, g in there.groupby(level=["task", "method"])}
            tasks = [task for task, name in runs if name == method and (task, other) in runs]
            if tasks:
                ours, theirs = ([runs[task, name] for task in tasks] for name in (method, other))
                numbers = probability_of_improvement(ours, theirs)
                who = {"method": method, "over": other, "env_step": step, "n_tasks": len(tasks)}
                n_runs, n_runs_over = (sum(x.size for x in arm) for arm in (ours, theirs))
                rows = _rows(numbers, **who, n_runs=n_runs, n_runs_over=n_runs_over)
                rows[DIFFERENCE] = np.nan
                if len(tasks) == 1 or comparison.maximum is not None:
                    rows[DIFFERENCE] = np.stack(mean_difference(ours, theirs), axis=1)
                frames.append(rows)
    return pd.concat(frames) if frames else pd.DataFrame()


def _strata(wide: pd.DataFrame) -> list[Array]:
    """``[T, n]`` for each task."""
    return [wide[task].to_numpy() for task in wide.columns.unique("task")]


def _rows(numbers: Estimate, **keys: object) -> pd.DataFrame:
    """A row for each point, with the columns ``keys`` before ``INTERVAL``."""
    return pd.DataFrame({**keys, **dict(zip(INTERVAL, numbers, strict=True))})
