"""The numbers that pictures and pages show, as data frames."""

from collections.abc import Mapping, Sequence
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
    performance_profile,
    probability_of_improvement,
)

INTERVAL = ["value", "ci_low", "ci_high"]
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


def curves(
    comparison: Comparison, metric: Metric, at: Mapping[str, Sequence[int]] | None = None
) -> pd.DataFrame:
    """Each method on each task over its seeds.

    Where a seed has no value, the others' statistic stands without an interval.

    Args:
        at: env steps of each task; None: all that a seed was evaluated at.

    Returns:
        The columns of published curves, so that a file of it can be overlaid like one, and
        ``value, ci_low, ci_high, all_seeds``.
    """
    frames = []
    for (task, method), scores in comparison.scores.groupby(["task", "method"]):
        wide = aligned(scores, ["seed"], at[task] if at else ())
        wide = (wide.loc[list(at[task])] if at else wide).dropna(how="all")
        values, complete = wide.to_numpy(), wide.notna().all(axis=1).to_numpy()
        table = pd.DataFrame({"method": method, "task": task, "env_step": wide.index})
        table["modality"], table["source"] = comparison.modality, "runs"
        table["mean"] = wide.mean(axis=1).to_numpy()
        table["std"] = wide.std(axis=1).to_numpy()
        table["n_seeds"] = wide.notna().sum(axis=1).to_numpy()
        table["all_seeds"] = complete
        table[INTERVAL] = np.nan
        table.loc[complete, INTERVAL] = np.stack(estimate([values[complete]], metric), axis=1)
        table.loc[~complete, "value"] = [
            float(aggregate([row[np.isfinite(row)]], metric)) for row in values[~complete]
        ]
        frames.append(table)
    columns = ["method", "task", "modality", "env_step", "mean", "std", "n_seeds", "source"]
    return pd.concat(frames)[[*columns, *INTERVAL, "all_seeds"]]


def compared_tasks(comparison: Comparison) -> list[str]:
    """Those that all methods were run on; if fewer than two, those of the method with most.

    Empty where a task's largest score is not known.
    """
    by_method = comparison.scores.groupby("method")["task"].agg(set)
    shared = set.intersection(*by_method)
    if len(shared) < 2:
        shared = max(by_method, key=len)
    known = all(comparison.maxima[task] is not None for task in shared)
    return sorted(shared) if known else []


def _normalized(comparison: Comparison, tasks: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Scores over their task's maximum, of each method that was run on all ``tasks``."""
    scores = comparison.scores[comparison.scores["task"].isin(tasks)]
    scores = scores.assign(score=scores["score"] / scores["task"].map(comparison.maxima))
    return {
        method: scores[scores["method"] == method]
        for method in comparison.methods
        if tasks and set(scores.loc[scores["method"] == method, "task"]) == set(tasks)
    }


def aggregates(comparison: Comparison, published: pd.DataFrame, metric: Metric) -> pd.DataFrame:
    """Each method over tasks, at the env steps at which each of its runs has a value.

    Of published methods it is the mean over tasks of their means; nothing else is known.

    Returns:
        ``method, n_tasks, n_runs, env_step, value, ci_low, ci_high``; ``n_runs`` is 0 for
        published methods. Empty for fewer than two tasks.
    """
    tasks = compared_tasks(comparison)
    frames = [pd.DataFrame(columns=["method", "n_tasks", "n_runs", "env_step", *INTERVAL])]
    if len(tasks) < 2:
        return frames[0]
    for method, scores in _normalized(comparison, tasks).items():
        wide = aligned(scores, ["task", "seed"]).dropna()
        who = {"method": method, "n_tasks": len(tasks), "n_runs": wide.shape[1]}
        frames.append(_rows(estimate(_strata(wide), metric), **who, env_step=wide.index))
    for method, theirs in published.groupby("method", sort=False):
        if set(tasks) <= set(theirs["task"]):
            means = theirs.assign(score=theirs["mean"] / theirs["task"].map(comparison.maxima))
            wide = aligned(means[means["task"].isin(tasks)], ["task"]).dropna()
            value, nothing = wide.mean(axis=1).to_numpy(), np.full(len(wide), np.nan)
            who = {"method": method, "n_tasks": len(tasks), "n_runs": 0}
            frames.append(_rows(Estimate(value, nothing, nothing), **who, env_step=wide.index))
    return pd.concat([frame for frame in frames[1:] if len(frame)] or frames)


def _strata(wide: pd.DataFrame) -> list[Array]:
    """``[T, n]`` for each task."""
    return [wide[task].to_numpy() for task in wide.columns.unique("task")]


def _rows(numbers: Estimate, **keys: object) -> pd.DataFrame:
    """A row for each point, with the columns ``keys`` before ``INTERVAL``."""
    return pd.DataFrame({**keys, **dict(zip(INTERVAL, numbers, strict=True))})


def last_common_step(scores: pd.DataFrame, by: Sequence[str]) -> int | None:
    """The last env step at which every run of ``scores`` has a value; None: there is none."""
    steps = scores.groupby(list(by))["env_step"]
    first, last = int(steps.min().max()), int(steps.max().min())
    return last if first <= last else None


def profiles(comparison: Comparison) -> pd.DataFrame:
    """The share of runs above ``THRESHOLDS`` at the last env step that every run reached.

    Returns:
        ``method, n_tasks, n_runs, env_step, threshold, value, ci_low, ci_high``; empty where
        there are not two runs that can be compared.
    """
    tasks = compared_tasks(comparison)
    methods = _normalized(comparison, tasks)
    everything = pd.concat(methods.values()) if methods else comparison.scores[:0]
    by = ["method", "task", "seed"]
    if len(everything[by].drop_duplicates()) < 2:
        return pd.DataFrame()
    step = last_common_step(everything, by)
    if step is None:
        return pd.DataFrame()
    frames = []
    for method, scores in methods.items():
        wide = aligned(scores, ["task", "seed"], [step]).loc[[step]]
        numbers = performance_profile([task[0] for task in _strata(wide)], THRESHOLDS)
        who = {"method": method, "n_tasks": len(tasks), "n_runs": wide.shape[1]}
        frames.append(_rows(numbers, **who, env_step=step, threshold=THRESHOLDS.round(2)))
    return pd.concat(frames)


def returns(comparison: Comparison, metric: Metric, at: Sequence[int]) -> pd.DataFrame:
    """``curves`` at env steps ``at``; if empty, at the last that all runs of a task reached."""
    steps: dict[str, Sequence[int]] = {}
    for task, scores in comparison.scores.groupby("task"):
        last = last_common_step(scores, ["method", "seed"])
        steps[task] = at or [step for step in (last,) if step is not None]
    return curves(comparison, metric, steps)


def improvements(comparison: Comparison, at: Sequence[int]) -> pd.DataFrame:
    """How likely each method beats each of the later ones, over the tasks that both have.

    Args:
        at: env steps; empty: the last that all runs of both reached. Runs without a value at a
            step do not count there.

    Returns:
        ``method, over, env_step, n_tasks, n_runs, n_runs_over, value, ci_low, ci_high``
    """
    by = ["method", "task", "seed"]
    frames = []
    for method, other in combinations(comparison.methods, 2):
        scores = comparison.scores[comparison.scores["method"].isin([method, other])]
        shared = scores.groupby("task")["method"].transform("nunique") == 2
        if not shared.any():
            continue
        last = last_common_step(scores[shared], by)
        for step in at or [step for step in (last,) if step is not None]:
            there = aligned(scores[shared], by, [step]).loc[step].dropna()
            runs = {key: g.to_numpy()[None] for key, g in there.groupby(level=["task", "method"])}
            tasks = [task for task, name in runs if name == method and (task, other) in runs]
            if not tasks:
                continue
            ours, theirs = ([runs[task, name] for task in tasks] for name in (method, other))
            numbers = probability_of_improvement(ours, theirs)
            who = {"method": method, "over": other, "env_step": step, "n_tasks": len(tasks)}
            n_runs, n_runs_over = (sum(x.size for x in arm) for arm in (ours, theirs))
            frames.append(_rows(numbers, **who, n_runs=n_runs, n_runs_over=n_runs_over))
    return pd.concat(frames) if frames else pd.DataFrame()
