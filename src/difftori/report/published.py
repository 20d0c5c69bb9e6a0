"""Published curves: a CSV file with method, task, modality, env_step, mean; std if known."""

import csv
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from difftori.report.curves import Series
from difftori.report.statistics import Array

REQUIRED = ("method", "task", "modality", "env_step", "mean")


class PublishedError(ValueError):
    """A file of published curves that cannot be used; the message is one line for the user."""


class PublishedKey(NamedTuple):
    method: str
    task: str
    modality: str


@dataclass(frozen=True)
class PublishedCurve:
    """The mean over seeds, as somebody else reported it."""

    mean: Series
    std: Array
    """``[E]``, over seeds; NaN where it was not reported"""
    seeds: str
    """how many, as it stands in the file"""
    source: str


def drawn_until(
    end: int, published: Mapping[PublishedKey, PublishedCurve]
) -> dict[PublishedKey, PublishedCurve]:
    """What axes that end at env step ``end`` show of the curves; of some that is nothing."""
    drawn = {}
    for key, curve in published.items():
        kept = curve.mean.steps <= end
        if kept.any():
            mean = Series(curve.mean.steps[kept], curve.mean.scores[kept])
            drawn[key] = replace(curve, mean=mean, std=curve.std[kept])
    return drawn


class _Row(NamedTuple):
    step: int
    mean: float
    std: float
    seeds: str
    source: str


def read_published(
    path: Path, methods: Sequence[str] = ()
) -> tuple[dict[PublishedKey, PublishedCurve], list[str]]:
    """The curves of ``path``, and what was wrong with it, a sentence each.

    Args:
        methods: names or patterns of those to keep, in this order; none keeps all.

    Raises:
        PublishedError: the file or its columns cannot be read, no row has numbers, or a method is
            not in it.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise PublishedError(f"{path} cannot be read: {reason}") from error
    reader = csv.DictReader(text.splitlines())
    missing = [name for name in REQUIRED if name not in (reader.fieldnames or ())]
    if missing:
        s = "s" if len(missing) > 1 else ""
        raise PublishedError(f"{path} lacks the column{s} {', '.join(missing)}")
    rows: dict[PublishedKey, dict[int, _Row]] = defaultdict(dict)
    bad = 0
    for cells in reader:
        row = _row(cells)
        if row is None:
            bad += 1
            continue
        rows[PublishedKey(cells["method"], cells["task"], cells["modality"])][row.step] = row
    if not rows:
        raise PublishedError(f"{path}: no row has numbers for env_step and mean (std may be empty)")
    problems = [f"{path}: {bad} rows without a number are left out"] if bad else []
    wanted = _choose(sorted({key.method for key in rows}), methods, path)
    return {
        key: _curve([rows[key][step] for step in sorted(rows[key])])
        for method in wanted
        for key in rows
        if key.method == method
    }, problems


def _row(cells: Mapping[str | Any, str | Any]) -> _Row | None:
    try:
        step, mean = float(cells["env_step"]), float(cells["mean"])
        std = float(cells.get("std") or math.nan)
        if not (math.isfinite(mean) and math.isfinite(step)):
            return None
    except (TypeError, ValueError):
        return None
    return _Row(int(step), mean, std, cells.get("n_seeds") or "", cells.get("source") or "")


def _curve(rows: Sequence[_Row]) -> PublishedCurve:
    return PublishedCurve(
        mean=Series(np.asarray([r.step for r in rows]), np.asarray([r.mean for r in rows])),
        std=np.asarray([row.std for row in rows]),
        seeds="–".join(sorted({row.seeds for row in rows if row.seeds}, key=lambda n: n.zfill(9))),
        source=rows[-1].source,
    )


def _choose(known: Sequence[str], patterns: Sequence[str], path: Path) -> list[str]:
    chosen: list[str] = []
    for pattern in patterns or ("*",):
        found = [name for name in known if fnmatchcase(name, pattern)]
        if not found:
            raise PublishedError(f"{path} has no method {pattern}; it has {', '.join(known)}")
        chosen += [name for name in found if name not in chosen]
    return chosen
