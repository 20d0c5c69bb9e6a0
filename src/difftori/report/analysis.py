"""What the pictures of a sheet show, in numbers: curves, their aggregate, profiles."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from difftori.report.curves import Series, Steps, align
from difftori.report.published import PublishedCurve, PublishedKey
from difftori.report.sheets import Cell, Method, Sheet
from difftori.report.statistics import (
    Array,
    Estimate,
    Metric,
    aggregate,
    estimate,
    performance_profile,
)

THRESHOLDS = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True)
class CellCurve:
    """A method's curve on a task."""

    cell: Cell
    seeds: tuple[int, ...]
    steps: Steps
    """``[T]``, env steps"""
    estimate: Estimate
    """over the seeds that have a value; the interval is NaN where some have none"""
    mean: Array
    """``[T]``"""
    std: Array
    """``[T]``, of the sample; NaN for one seed"""
    count: NDArray[np.int64]
    """``[T]``: seeds with a value"""
    interpolated: bool

    @property
    def complete(self) -> NDArray[np.bool_]:
        """``[T]``: where every seed has a value."""
        return self.count == len(self.seeds)


@dataclass(frozen=True)
class AggregateCurve:
    """A method's curve over tasks, each score divided by its task's maximum."""

    label: str
    runs: int
    """0 for a published method"""
    steps: Steps
    """``[T]``, env steps at which every run of every task has a value"""
    estimate: Estimate
    interpolated: bool


@dataclass(frozen=True)
class Aggregate:
    """The methods that were run on all of ``tasks``."""

    tasks: tuple[str, ...]
    curves: tuple[AggregateCurve, ...]
    published: tuple[AggregateCurve, ...]


@dataclass(frozen=True)
class Profile:
    label: str
    runs: int
    estimate: Estimate
    """at ``THRESHOLDS``"""


@dataclass(frozen=True)
class Profiles:
    tasks: tuple[str, ...]
    env_step: int
    profiles: tuple[Profile, ...]


def cell_curve(cell: Cell, series: Mapping[int, Series], metric: Metric) -> CellCurve:
    """The curve over the runs in ``series``, by seed; at least one."""
    aligned = align(list(series.values()))
    scores, complete = aligned.scores, aligned.complete
    finite = np.isfinite(scores)
    value = np.array(
        [
            float(aggregate([column[there]], metric))
            for column, there in zip(scores.T, finite.T, strict=True)
        ]
    )
    low, high = np.full_like(value, np.nan), np.full_like(value, np.nan)
    interval = estimate([scores[:, complete].T], metric)
    low[complete], high[complete] = interval.low, interval.high
    count = finite.sum(axis=0)
    std = np.full_like(value, np.nan)
    std[count > 1] = np.nanstd(scores[:, count > 1], axis=0, ddof=1)
    return CellCurve(
        cell=cell,
        seeds=tuple(series),
        steps=aligned.steps,
        estimate=Estimate(value, low, high),
        mean=np.nanmean(scores, axis=0),
        std=std,
        count=count,
        interpolated=aligned.interpolated,
    )


def compared_tasks(sheet: Sheet, series: Mapping[Cell, Mapping[int, Series]]) -> tuple[str, ...]:
    """The tasks that every method was run on; if those are fewer than two, of the one with most."""
    by_method = {
        method: {cell.task for cell, runs in series.items() if cell.method == method and runs}
        for method in {cell.method for cell, runs in series.items() if runs}
    }
    shared = set.intersection(*by_method.values()) if by_method else set()
    if len(shared) < 2:
        shared = max(by_method.values(), key=len, default=set())
    return tuple(sorted(shared))


def aggregate_curves(
    sheet: Sheet,
    series: Mapping[Cell, Mapping[int, Series]],
    published: Mapping[PublishedKey, PublishedCurve],
    metric: Metric,
) -> Aggregate | None:
    """The methods that were run on all compared tasks; None for one task or an unknown maximum."""
    tasks = compared_tasks(sheet, series)
    units = [sheet.maximum(task) for task in tasks]
    if len(tasks) < 2 or None in units:
        return None
    scale = np.array([unit for unit in units if unit is not None])
    curves = []
    for method in sheet.methods:
        runs = [list(series.get(Cell(method, task), {}).values()) for task in tasks]
        if all(runs):
            curves.append(_aggregate_curve(sheet.label(method), runs, scale, metric))
    return Aggregate(tasks, tuple(curves), _aggregate_published(sheet, tasks, published, scale))


def _aggregate_curve(
    label: str, runs: Sequence[Sequence[Series]], scale: Array, metric: Metric
) -> AggregateCurve:
    aligned = align([one for task in runs for one in task])
    complete = aligned.complete
    ends = np.cumsum([len(task) for task in runs])[:-1]
    by_task = np.split(aligned.scores[:, complete], ends)
    scores = [task.T / unit for task, unit in zip(by_task, scale, strict=True)]
    return AggregateCurve(
        label=label,
        runs=len(aligned.scores),
        steps=aligned.steps[complete],
        estimate=estimate(scores, metric),
        interpolated=aligned.interpolated,
    )


def _aggregate_published(
    sheet: Sheet,
    tasks: Sequence[str],
    published: Mapping[PublishedKey, PublishedCurve],
    scale: Array,
) -> tuple[AggregateCurve, ...]:
    """The mean over tasks of published means; their runs are not known, so nothing else is."""
    curves = []
    for name in dict.fromkeys(key.method for key in published):
        keys = [PublishedKey(name, task, sheet.modality) for task in tasks]
        if all(key in published for key in keys):
            runs = [[published[key].mean] for key in keys]
            curve = _aggregate_curve(name, runs, scale, "mean")
            curves.append(AggregateCurve(name, 0, curve.steps, curve.estimate, curve.interpolated))
    return tuple(curves)


def performance_profiles(
    sheet: Sheet, series: Mapping[Cell, Mapping[int, Series]]
) -> Profiles | None:
    """Of scores at the last env step that every run reached; None where nothing is comparable."""
    tasks = compared_tasks(sheet, series)
    units = [sheet.maximum(task) for task in tasks]
    if not tasks or None in units:
        return None
    runs: dict[Method, list[list[Series]]] = {}
    for method in sheet.methods:
        by_task = [list(series.get(Cell(method, task), {}).values()) for task in tasks]
        if all(by_task):
            runs[method] = by_task
    everything = [one for by_task in runs.values() for task in by_task for one in task]
    if len(everything) < 2:
        return None
    first = max(int(one.steps[0]) for one in everything)
    env_step = min(int(one.steps[-1]) for one in everything)
    if first > env_step:
        return None
    profiles = []
    for method, by_task in runs.items():
        scores = [
            np.array([np.interp(env_step, one.steps, one.scores) for one in task]) / (unit or 1.0)
            for task, unit in zip(by_task, units, strict=True)
        ]
        count = sum(map(len, by_task))
        interval = performance_profile(scores, THRESHOLDS)
        profiles.append(Profile(sheet.label(method), count, interval))
    return Profiles(tasks, env_step, tuple(profiles))
