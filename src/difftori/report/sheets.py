"""Runs sorted into what one picture shows: suites and modalities, tasks, methods, seeds."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np

from difftori.report.curves import Series
from difftori.report.runs import Run


class Method(NamedTuple):
    """What is compared: runs that differ in task and seed only."""

    mode: str
    exp_name: str

    def __str__(self) -> str:
        return f"{self.mode}/{self.exp_name}"


class Cell(NamedTuple):
    """One curve: a method on a task."""

    method: Method
    task: str


@dataclass(frozen=True)
class Score:
    """Which number of an evaluation is drawn."""

    column: Literal["reward", "success"]
    label: str
    unit: float | None
    """the largest value of an episode of full length; None: unknown, so tasks are not averaged"""


SCORES = {
    "dmcontrol": Score("reward", "Episode return", 1000.0),
    "metaworld": Score("success", "Success rate", 1.0),
}
"""by suite; dm_control gives up to 1 for each of its 1000 env steps, and Meta-World's rewards
are not comparable between tasks"""
OTHER_SCORE = Score("reward", "Episode return", None)


@dataclass(frozen=True)
class Sheet:
    """All runs of one suite and modality, at most one for each method, task and seed."""

    suite: str
    modality: str
    cells: Mapping[Cell, Mapping[int, Run]]
    """runs by seed, rising, also those without an evaluation"""

    @property
    def name(self) -> str:
        return f"{self.suite}-{self.modality}"

    @cached_property
    def score(self) -> Score:
        score = SCORES.get(self.suite, OTHER_SCORE)
        rows = [row for runs in self.cells.values() for r in runs.values() for row in r.evaluations]
        known = any(np.isfinite(getattr(row, score.column)) for row in rows)
        return score if known or not rows else OTHER_SCORE

    @property
    def tasks(self) -> list[str]:
        return sorted({cell.task for cell in self.cells})

    @property
    def methods(self) -> list[Method]:
        return sorted({cell.method for cell in self.cells})

    def seeds(self, method: Method) -> set[int]:
        """Every seed that the method was run with, on whatever task."""
        return {s for cell, runs in self.cells.items() if cell.method == method for s in runs}

    def series(self, cell: Cell, until: int | None = None) -> dict[int, Series]:
        """Evaluations by seed, without the runs that have none; ``until`` is an env step."""
        found = {}
        for seed, run in self.cells.get(cell, {}).items():
            points = [
                (row.env_step, getattr(row, self.score.column))
                for row in run.evaluations
                if until is None or row.env_step <= until
            ]
            finite = [point for point in points if np.isfinite(point[1])]
            if finite:
                steps, scores = zip(*finite, strict=True)
                found[seed] = Series(np.asarray(steps), np.asarray(scores, dtype=np.float64))
        return found

    def maximum(self, task: str) -> float | None:
        """The largest score on ``task``; a cut dm_control episode has fewer rewards of 1."""
        unit = self.score.unit
        if unit is None or self.score.column != "reward":
            return unit
        lengths = {
            run.config.get("episode_length")
            for cell, runs in self.cells.items()
            if cell.task == task
            for run in runs.values()
        }
        return max((min(float(length or unit), unit) for length in lengths), default=unit)

    def label(self, method: Method) -> str:
        """The method's name, as short as tells it from the sheet's others."""
        if len({other.exp_name for other in self.methods}) == 1:
            return method.mode
        if len({other.mode for other in self.methods}) == 1:
            return method.exp_name
        return str(method)


def sheets_of(runs: Sequence[Run]) -> tuple[list[Sheet], list[str]]:
    """Sort runs; of two for the same seed, the one that got further is kept, and that is told."""
    told = []
    sorted_runs: dict[tuple[str, str], dict[Cell, dict[int, Run]]] = defaultdict(
        lambda: defaultdict(dict)
    )
    for run in sorted(runs, key=lambda run: run.evaluated_until, reverse=True):
        key = run.key
        sheet = sorted_runs[str(run.config.get("suite", "unknown")), key.modality]
        seeds = sheet[Cell(Method(key.mode, key.exp_name), key.task)]
        if key.seed in seeds:
            told.append(
                f"{key} is in two folders: {seeds[key.seed].folder} is used, "
                f"{run.folder} got less far and is left out"
            )
            continue
        seeds[key.seed] = run
    sheets = [
        Sheet(suite, modality, {cell: dict(sorted(runs.items())) for cell, runs in cells.items()})
        for (suite, modality), cells in sorted(sorted_runs.items())
    ]
    return sheets, told
