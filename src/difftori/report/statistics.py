"""Statistics over seeds and tasks as Agarwal et al. (2021, arXiv 2108.13264) define them.

Scores of a task are an array ``[T, n]``: ``n`` runs (seeds), compared at each of ``T`` points
(env steps, or thresholds of a profile). Tasks may have different numbers of runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.stats  # type: ignore[import-untyped]
from numpy.typing import NDArray

Array = NDArray[np.float64]
Metric = Literal["mean", "iqm"]

CONFIDENCE = 0.95
RESAMPLES = 5000
_NUMBERS_AT_ONCE = 4_000_000
"""of all resamples in memory; 32 MB"""


@dataclass(frozen=True)
class Estimate:
    """A statistic at ``T`` points, and its interval; NaN where one run says nothing about it."""

    value: Array
    """``[T]``"""
    low: Array
    """``[T]``"""
    high: Array
    """``[T]``"""


def aggregate(scores: Sequence[Array], metric: Metric) -> Array:
    """The mean over tasks of the mean over runs, or the mean of the middle half of all runs.

    Each task counts the same, also where one has fewer runs. With fewer than four runs in all,
    nothing is trimmed and the IQM is the mean.

    Args:
        scores: for each task ``[..., n]``.

    Returns:
        ``[...]``
    """
    if metric == "mean":
        return np.asarray(np.mean([task.mean(axis=-1) for task in scores], axis=0))
    pooled = np.concatenate(scores, axis=-1)
    counts = [task.shape[-1] for task in scores]
    if len(set(counts)) > 1:
        return _weighted_iqm(pooled, np.repeat(1 / (len(counts) * np.array(counts)), counts))
    return np.asarray(scipy.stats.trim_mean(pooled, proportiontocut=0.25, axis=-1))


def _weighted_iqm(scores: Array, weights: Array) -> Array:
    """The mean of the middle half of the weight, along the last axis; ``weights`` sum to 1.

    Equals the trimmed mean where all weights are equal and a quarter of the runs is a whole
    number.
    """
    order = np.argsort(scores, axis=-1)
    upper = np.cumsum(weights[order], axis=-1)
    lower = upper - weights[order]
    kept = np.clip(np.minimum(upper, 0.75) - np.maximum(lower, 0.25), 0, None)
    return np.asarray((np.take_along_axis(scores, order, axis=-1) * kept).sum(axis=-1) / 0.5)


def estimate(
    scores: Sequence[Array], metric: Metric, *, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate:
    """``aggregate`` with its percentile interval by stratified bootstrap.

    Runs are drawn with replacement within each task, so the interval speaks of other seeds on
    the same tasks. It holds at each point by itself.

    Args:
        scores: for each task ``[T, n]``.
    """
    value = aggregate(scores, metric)
    drawn = [task for task in scores if task.shape[-1] > 1]
    single = [task for task in scores if task.shape[-1] == 1]
    if not drawn or not len(value):
        unknown = np.full_like(value, np.nan)
        return Estimate(value, unknown, unknown)

    def statistic(*samples: Array, axis: int) -> Array:
        # a task with one run is the same in each resample; scipy refuses to draw from it
        shape = samples[0].shape[:-1]
        fixed = [np.broadcast_to(task[:, None], (*shape, 1)) for task in single]
        return aggregate([*samples, *fixed], metric)

    result = scipy.stats.bootstrap(
        drawn,
        statistic,
        axis=-1,
        vectorized=True,
        method="percentile",
        confidence_level=CONFIDENCE,
        n_resamples=resamples,
        batch=max(1, _NUMBERS_AT_ONCE // sum(task.size for task in scores)),
        rng=np.random.default_rng(seed),
    )
    interval = result.confidence_interval
    return Estimate(value, interval.low, interval.high)


def performance_profile(scores: Sequence[Array], thresholds: Array, *, seed: int = 0) -> Estimate:
    """The share of runs whose score is above each threshold, each task counting the same.

    Args:
        scores: for each task ``[n]``.
        thresholds: ``[T]``
    """
    above = [(task[None, :] > thresholds[:, None]).astype(np.float64) for task in scores]
    return estimate(above, "mean", seed=seed)
