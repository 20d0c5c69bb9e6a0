"""Curves of several runs on one grid of env steps."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from difftori.report.statistics import Array

Steps = NDArray[np.int64]


def format_steps(step: float, _position: object = None) -> str:
    """``0``, ``512``, ``1,792``, ``20k``, ``1.5M``."""
    if abs(step) >= 1e6:
        return f"{step / 1e6:g}M"
    if abs(step) >= 1e4 or (step and step % 100 == 0 and abs(step) >= 1e3):
        return f"{step / 1e3:g}k"
    return f"{step:,.0f}"


@dataclass(frozen=True)
class Series:
    """One run's evaluations."""

    steps: Steps
    """``[E]``, env steps, rising"""
    scores: Array
    """``[E]``"""


@dataclass(frozen=True)
class Aligned:
    """Several runs on one grid."""

    steps: Steps
    """``[T]``, env steps"""
    scores: Array
    """``[n, T]``, NaN outside of a run's first and last evaluation"""
    interpolated: bool
    """some run was not evaluated at some step of the grid between its first and its last"""

    @property
    def complete(self) -> NDArray[np.bool_]:
        """``[T]``: where every run has a value."""
        return np.asarray(np.isfinite(self.scores).all(axis=0))


def align(series: Sequence[Series]) -> Aligned:
    """Put runs on the grid of the one that was evaluated least often, as far as it reaches.

    Further grid points come from the next. Between its own evaluations a run is interpolated
    linearly; beyond them it has no value.
    """
    grid: list[int] = []
    for one in sorted(series, key=lambda one: (-_spacing(one), -len(one.steps))):
        grid += [int(step) for step in one.steps if not grid or step > grid[-1]]
    steps = np.asarray(grid, dtype=np.int64)
    scores = np.full((len(series), len(steps)), np.nan)
    interpolated = False
    for row, one in zip(scores, series, strict=True):
        if len(one.steps):
            row[:] = np.interp(steps, one.steps, one.scores, left=np.nan, right=np.nan)
            inside = steps[np.isfinite(row)]
            interpolated |= not np.isin(inside, one.steps).all()
    return Aligned(steps, scores, interpolated)


def _spacing(series: Series) -> float:
    """Env steps between evaluations; a run with one evaluation does not set the pace."""
    return float(np.median(np.diff(series.steps))) if len(series.steps) > 1 else 0.0
