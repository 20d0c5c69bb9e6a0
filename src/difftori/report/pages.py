"""From run folders to files: pictures, CSV files of their numbers, a page of returns."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from difftori.report import figures, tables
from difftori.report.comparison import Comparison, compare, mixed_versions
from difftori.report.folders import RunFolderError
from difftori.report.published import COLUMNS, read_published
from difftori.report.runs import Run, read_run
from difftori.report.statistics import CONFIDENCE, RESAMPLES, Metric

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """What a user asks for."""

    folders: Mapping[Path, str]
    """label of each run folder, empty for none"""
    out: Path
    metric: Metric = "mean"
    published: Path | None = None
    published_methods: Sequence[str] = ()
    at: Sequence[int] = ()
    """env steps of the tables; empty: the last that all runs of a task reached"""
    until: int | None = None
    """env step at which the axes end"""
    drop_short: bool = False
    free_y: bool = False


def write_all(request: Request) -> list[Path]:
    """Write everything into ``request.out``; returns the paths.

    Raises:
        RunFolderError: no run can be read, or none has an evaluation to draw.
        PublishedError: the file of published curves cannot be used.
        OSError: something cannot be written.
    """
    published = pd.DataFrame(columns=COLUMNS)
    if request.published is not None:
        published = read_published(request.published, request.published_methods)
    runs = _read_all(request.folders)
    comparisons = compare(
        runs,
        until=request.until,
        drop_short=request.drop_short,
    )
    if not comparisons:
        some = any(run.evaluated_until for run in runs)
        why = "that --until and --drop-short leave in" if some else "yet"
        raise RunFolderError(f"none of these runs has an evaluation {why}")
    versions = mixed_versions(runs)
    for note in versions:
        logger.warning(note)
    request.out.mkdir(parents=True, exist_ok=True)
    paths = []
    for comparison in comparisons:
        paths += _write_comparison(request, comparison, published, versions)
    return paths


def _read_all(folders: Mapping[Path, str]) -> list[Run]:
    runs = []
    for folder, label in folders.items():
        try:
            runs.append(read_run(folder, label))
        except RunFolderError as error:
            logger.warning("%s", error)
            continue
        if runs[-1].problem:
            logger.warning(runs[-1].problem)
    if not runs:
        raise RunFolderError("none of these runs can be read")
    return runs


def _write_comparison(
    request: Request, comparison: Comparison, published: pd.DataFrame, notes: Sequence[str]
) -> list[Path]:
    own = list(comparison.notes)
    theirs = published[
        (published["modality"] == comparison.modality) & published["task"].isin(comparison.tasks)
    ]
    end = int(request.until or comparison.scores["env_step"].max())
    if request.published is not None and request.until is None:
        end = comparison.train_steps
    if len(published) and not (theirs["env_step"] <= end).any():
        own.append(f"no published curve of these tasks begins within {end:,} env steps")

    def path(kind: str, suffix: str) -> Path:
        return request.out / f"{kind}-{comparison.name}{suffix}"

    curves = tables.curves(comparison, request.metric)
    drawn = {
        "curves": figures.draw_curves(
            comparison, curves, theirs, metric=request.metric, end=end, free_y=request.free_y
        )
    }
    written = {
        "curves": pd.concat([curves, theirs]) if len(theirs) else curves,
        "aggregate": tables.aggregates(comparison, theirs, request.metric),
        "profiles": tables.profiles(comparison),
        "returns": tables.returns(comparison, request.metric, request.at),
        "improvement": tables.improvements(comparison, request.at),
    }
    if len(written["aggregate"]):
        own += _left_out(comparison, written["aggregate"])
        drawn["aggregate"] = figures.draw_aggregate(
            comparison, written["aggregate"], metric=request.metric, end=end
        )
    if len(written["profiles"]):
        drawn["profiles"] = figures.draw_profiles(comparison, written["profiles"])
    for note in own:
        logger.warning(note)
    paths = [
        file for kind, figure in drawn.items() for file in figures.save(figure, path(kind, ""))
    ]
    for kind, table in written.items():
        if len(table):
            paths.append(path(kind, ".csv"))
            table.to_csv(paths[-1], index=False, float_format="%.6g")
    paths.append(path("returns", ".md"))
    text = _page(comparison, request.metric, written, theirs, [*own, *notes])
    paths[-1].write_text(text, encoding="utf-8")
    return paths


def _left_out(comparison: Comparison, table: pd.DataFrame) -> list[str]:
    """Which methods and tasks are not in the aggregate, and where it ends early."""
    notes = []
    tasks = tables.compared_tasks(comparison)
    methods = [name for name in comparison.methods if name not in set(table["method"])]
    others = [task for task in comparison.tasks if task not in tasks]
    if methods:
        notes.append(f"the aggregate leaves out {', '.join(methods)}: no value on all its tasks")
    if others:
        notes.append(f"the aggregate leaves out {', '.join(others)}: not every method has them")
    for method, end in table[table["n_runs"] > 0].groupby("method")["env_step"].max().items():
        if end < comparison.scores.loc[comparison.scores["method"] == method, "env_step"].max():
            notes.append(f"the aggregate of {method} ends at {end:,} env steps: a run ends there")
    return notes


def _page(
    comparison: Comparison,
    metric: Metric,
    written: Mapping[str, pd.DataFrame],
    published: pd.DataFrame,
    notes: Sequence[str],
) -> str:
    """Returns of each task and probabilities of improvement, in Markdown."""
    names = list(dict.fromkeys(published["method"]))
    digits = 2 if comparison.score_name == "Success rate" else 0
    rows = []
    for (task, step), table in written["returns"].groupby(["task", "env_step"]):
        by_method = {row["method"]: row for _, row in table.iterrows()}
        cells = [_cell(by_method.get(method), digits) for method in comparison.methods]
        theirs = [
            published[(published["task"] == task) & (published["method"] == n)] for n in names
        ]
        rows.append(
            [task, f"{step:,}", *cells, *(_published_cell(t, step, digits) for t in theirs)]
        )
    over = "Mean" if metric == "mean" else "Interquartile mean (the mean of fewer than four)"
    parts = [
        f"# {comparison.score_name}: {comparison.name}",
        f"{over} over seeds; in brackets the {CONFIDENCE:.0%} percentile interval of {RESAMPLES:,} "
        "stratified bootstrap resamples of the runs."
        + (" Published: mean ± standard deviation over seeds." if names else ""),
        _markdown(["task", "env steps", *comparison.methods, *names], rows),
    ]
    if len(written["improvement"]):
        parts += [
            "## Probability of improvement",
            "How likely a run of the first method scores higher than one of the second.",
            _markdown(
                ["method", "over", "env steps", "tasks", "runs", "probability"],
                [
                    [row["method"], row["over"], f"{row['env_step']:,}", str(row["n_tasks"]),
                     f"{row['n_runs']}, {row['n_runs_over']}", _cell(row, 2)]
                    for _, row in written["improvement"].iterrows()
                ],
            ),
        ]  # fmt: skip
    if notes:
        parts += ["## To know", "\n".join(f"- {note}" for note in notes)]
    return "\n\n".join(parts) + "\n"


def _cell(row: pd.Series | None, digits: int) -> str:
    """``812 [700, 900]``; without an interval where some seeds have no value, and how many have."""
    if row is None:
        return "—"
    text = f"{row['value']:.{digits}f}"
    if not row.get("all_seeds", True):
        return f"{text} ({row['n_seeds']} seed{'' if row['n_seeds'] == 1 else 's'} only)"
    if np.isnan(row["ci_low"]):
        return text
    return f"{text} [{row['ci_low']:.{digits}f}, {row['ci_high']:.{digits}f}]"


def _published_cell(curve: pd.DataFrame, step: int, digits: int) -> str:
    if curve.empty or not curve["env_step"].min() <= step <= curve["env_step"].max():
        return "—"
    mean, std = (np.interp(step, curve["env_step"], curve[name]) for name in ("mean", "std"))
    return f"{mean:.{digits}f}" + ("" if np.isnan(std) else f" ± {std:.{digits}f}")


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The first column left, the others right."""
    lines = [list(columns), ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
