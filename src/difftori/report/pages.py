"""From run folders to files: pictures, CSV files of their numbers, a page of returns."""

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from difftori.report import figures, tables
from difftori.report.comparison import Comparison, compare
from difftori.report.folders import RunFolderError
from difftori.report.published import COLUMNS, read_published
from difftori.report.runs import Run, read_run
from difftori.report.statistics import CONFIDENCE, RESAMPLES, Metric

logger = logging.getLogger(__name__)


def write_all(
    folders: Mapping[Path, str],
    out: Path,
    *,
    metric: Metric = "mean",
    at: Sequence[int] = (),
    published: Path | None = None,
    published_methods: Sequence[str] = (),
    drop_short: bool = False,
) -> list[Path]:
    """Write everything into ``out``; returns the paths.

    Args:
        folders: label of each run folder, empty for none.
        at: env steps of the tables; empty: the last that all runs of a task reached.
        published: a CSV file of curves to overlay.
        published_methods: only these of it, names or patterns.
        drop_short: leave out runs that have evaluations still to come.

    Raises:
        RunFolderError: no run has an evaluation to draw.
        PublishedError: the file of published curves cannot be used.
        OSError: something cannot be written.
    """
    theirs = pd.DataFrame(columns=COLUMNS)
    if published is not None:
        theirs = read_published(published, published_methods)
    comparisons = compare(_read_all(folders), theirs, drop_short=drop_short)
    if not comparisons:
        raise RunFolderError("none of these runs has an evaluation, or all are short and dropped")
    out.mkdir(parents=True, exist_ok=True)
    return [path for each in comparisons for path in _write_comparison(each, out, metric, at)]


def _read_all(folders: Mapping[Path, str]) -> list[Run]:
    runs = []
    for folder, label in folders.items():
        try:
            runs.append(read_run(folder, label))
        except RunFolderError as error:
            logger.warning(f"left out: {error}")
    if not runs:
        raise RunFolderError("none of these runs can be read")
    return runs


def _write_comparison(
    comparison: Comparison, out: Path, metric: Metric, at: Sequence[int]
) -> list[Path]:
    for note in comparison.notes:
        logger.warning(note)
    everything = tables.curves(comparison.everything, metric)
    ours = everything["method"].isin(comparison.methods)
    written = {
        "curves": everything[ours].assign(modality=comparison.modality),
        "aggregate": tables.aggregates(comparison, metric),
        "profiles": tables.profiles(comparison),
        "returns": tables.returns(comparison, metric, at),
        "improvement": tables.improvements(comparison, at),
    }
    drawn = {"curves": figures.draw_curves(comparison, everything, metric)}
    if len(written["aggregate"]):
        drawn["aggregate"] = figures.draw_aggregate(comparison, written["aggregate"], metric)
    if len(written["profiles"]):
        drawn["profiles"] = figures.draw_profiles(comparison, written["profiles"])
    paths = []
    for kind, figure in drawn.items():
        paths += figures.save(figure, out / f"{kind}-{comparison.name}")
    for kind, table in written.items():
        if len(table):
            paths.append(out / f"{kind}-{comparison.name}.csv")
            table.to_csv(paths[-1], index=False, float_format="%.6g")
    reached = set(written["returns"]["env_step"]) if len(written["returns"]) else set()
    for step in sorted(set(at) - reached):
        logger.warning(f"{comparison.name}: no run was evaluated until {step:,} env steps")
    paths.append(out / f"returns-{comparison.name}.md")
    page = _page(comparison, metric, written["returns"], written["improvement"])
    paths[-1].write_text(page, encoding="utf-8")
    for kind in written:  # what an earlier call left, of runs that are not compared now
        for suffix in ("csv", "png", "pdf"):
            path = out / f"{kind}-{comparison.name}.{suffix}"
            if path not in paths:
                path.unlink(missing_ok=True)
    return paths


def _page(
    comparison: Comparison, metric: Metric, returns: pd.DataFrame, improvement: pd.DataFrame
) -> str:
    """Returns of each task and probabilities of improvement, in Markdown."""
    over = "Mean" if metric == "mean" else "Interquartile mean (the mean of fewer than four)"
    parts = [
        f"# {comparison.score_name}: {comparison.name}",
        f"{over} over seeds; in brackets the {CONFIDENCE:.0%} percentile interval of {RESAMPLES:,} "
        "stratified bootstrap resamples of the runs, if each task has several and all reached it. "
        "Of few seeds it is too narrow: of two or three it is no more than their range.",
    ]
    if len(returns):
        largest = returns.groupby("task")["value"].transform(lambda values: values.abs().max())
        digits = [_digits(comparison.maximum or size) for size in largest]
        rows = zip(returns.itertuples(), digits, strict=True)
        seeds = comparison.scores.groupby(["task", "method"])["seed"].nunique().to_dict()
        cells = returns.assign(
            cell=[
                _cell((row.value, row.ci_low, row.ci_high), count)
                + _missing(row.n_seeds, seeds.get((row.task, row.method), 1))
                for row, count in rows
            ]
        )
        wide = cells.pivot(index=["task", "env_step"], columns="method", values="cell")
        parts.append(
            _markdown(
                wide[[m for m in comparison.all_methods if m in wide]].fillna("—").reset_index()
            )
        )
    if len(improvement):
        largest_difference = improvement["difference"].abs().max()
        cells = improvement.drop(columns=[*tables.INTERVAL, *tables.DIFFERENCE]).assign(
            probability=_cells(improvement[tables.INTERVAL], 2),
            difference=_cells(
                improvement[tables.DIFFERENCE], _digits(comparison.maximum or largest_difference)
            ),
        )
        parts += [
            "## Probability of improvement",
            "How likely a run of the first method scores higher than one of the second; and its "
            "mean less that of the second, each task counting the same.",
            _markdown(cells.rename(columns={"n_runs_over": "n_runs of the second"})),
        ]
    if comparison.notes:
        parts += ["## To know", "\n".join(f"- {note}" for note in comparison.notes)]
    return "\n\n".join(parts) + "\n"


def _digits(largest: float) -> int:
    """After the point, so that numbers up to ``largest`` have three digits that count."""
    return max(0, 2 - math.floor(math.log10(largest))) if largest > 0 else 0


def _cells(numbers: pd.DataFrame, digits: int) -> list[str]:
    return [_cell(row, digits) for row in numbers.itertuples(index=False, name=None)]


def _cell(numbers: Sequence[float], digits: int) -> str:
    """``812 [700, 900]`` of a value and its interval; a dash if there is none."""
    value, low, high = numbers
    text = "—" if np.isnan(value) else f"{value:z.{digits}f}"
    return text if np.isnan(low) else f"{text} [{low:z.{digits}f}, {high:z.{digits}f}]"


def _missing(seeds: int, of: int) -> str:
    """How many of the seeds a number is of, where some have none there."""
    return "" if seeds == of else f" ({seeds} of {of} seeds)"


def _markdown(table: pd.DataFrame) -> str:
    lines = [table.columns, ["---"] * len(table.columns), *table.to_numpy()]
    return "\n".join(f"| {' | '.join(str(c).replace('|', '/') for c in line)} |" for line in lines)
