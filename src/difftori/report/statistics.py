"""Statistics over seeds and tasks as Agarwal et al. (2021, arXiv 2108.13264) define them.

Scores of a task are an array ``[..., n]``: ``n`` runs (seeds), compared at each of the leading
points (env steps, or thresholds of a profile). Tasks may have different numbers of runs.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import scipy.stats
from numpy.typing import NDArray

Array = NDArray[np.float64]
Metric = Literal["mean", "iqm"]

CONFIDENCE = 0.95
RESAMPLES = 5000
_NUMBERS_AT_ONCE = 4_000_000
"""of all resamples in memory; 32 MB"""


class Estimate(NamedTuple):
    """A statistic at ``T`` points, and its interval: NaN where a task has one run only."""

    value: Array
    """``[T]``"""
    low: Array
    """``[T]``"""
    high: Array
    """``[T]``"""


def aggregate(scores: Sequence[Array], metric: Metric) -> Array:
    """The mean over tasks of the mean over runs, or the mean of the middle half of all runs.

    In the mean each task counts the same, in the IQM each run. With fewer than four runs in all,
    nothing is trimmed and the IQM is the mean.

    Args:
        scores: for each task ``[..., n]``.

    Returns:
        ``[...]``
    """
    if metric == "mean":
        return np.asarray(np.mean([task.mean(axis=-1) for task in scores], axis=0))
    pooled = np.concatenate(scores, axis=-1)
    return np.asarray(scipy.stats.trim_mean(pooled, proportiontocut=0.25, axis=-1))


def estimate(scores: Sequence[Array], metric: Metric) -> Estimate:
    """``aggregate`` with its percentile interval by stratified bootstrap.

    Runs are drawn with replacement within each task, so the interval speaks of other seeds on
    the same tasks. It holds at each point by itself.

    Args:
        scores: for each task ``[T, n]``.
    """
    return _bootstrap(scores, lambda samples: aggregate(samples, metric))


def performance_profile(scores: Sequence[Array], thresholds: Array) -> Estimate:
    """The share of runs whose score is above each threshold, each task counting the same.

    Args:
        scores: for each task ``[n]``.
        thresholds: ``[T]``
    """
    above = [(task[None, :] > thresholds[:, None]).astype(np.float64) for task in scores]
    return estimate(above, "mean")


def probability_of_improvement(x: Sequence[Array], y: Sequence[Array]) -> Estimate:
    """How likely a run of ``x`` scores higher than a run of ``y`` on a random task.

    A tie counts as a half, so that a task's share is Mann and Whitney's U over the number of
    pairs. The runs of both are drawn independently.

    Args:
        x: for each task ``[T, n]``.
        y: for each task ``[T, m]``, the same tasks.
    """

    def statistic(samples: Sequence[Array]) -> Array:
        shares = []
        for ours, theirs in zip(samples[: len(x)], samples[len(x) :], strict=True):
            difference = ours[..., :, None] - theirs[..., None, :]
            shares.append((np.sign(difference) / 2 + 0.5).mean(axis=(-2, -1)))
        return np.asarray(np.mean(shares, axis=0))

    return _bootstrap([*x, *y], statistic)


def mean_difference(x: Sequence[Array], y: Sequence[Array]) -> Estimate:
    """The mean of ``x`` less that of ``y``, each task counting the same.

    The runs of both are drawn independently.

    Args:
        x: for each task ``[T, n]``.
        y: for each task ``[T, m]``, the same tasks.
    """

    def statistic(samples: Sequence[Array]) -> Array:
        return aggregate(samples[: len(x)], "mean") - aggregate(samples[len(x) :], "mean")

    return _bootstrap([*x, *y], statistic)


def _bootstrap(strata: Sequence[Array], statistic: Callable[[Sequence[Array]], Array]) -> Estimate:
    """The statistic of ``strata``, each ``[T, n]``, and its interval, with a fixed seed."""
    value = statistic(strata)
    # a stratum of one run is the same in each resample: an interval would be too narrow
    if not len(value) or any(stratum.shape[-1] < 2 for stratum in strata):
        unknown = np.full_like(value, np.nan)
        return Estimate(value, unknown, unknown)
    interval = scipy.stats.bootstrap(
        strata,
        lambda *samples, axis: statistic(samples),
        axis=-1,
        vectorized=True,
        method="percentile",
        confidence_level=CONFIDENCE,
        n_resamples=RESAMPLES,
        batch=max(1, _NUMBERS_AT_ONCE // sum(stratum.size for stratum in strata)),
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Estimate(value, interval.low, interval.high)
