"""The numbers of each picture, in CSV for programs and in Markdown for people."""

import csv
import io
import math
from collections.abc import Mapping, Sequence

import numpy as np

from difftori.report.analysis import THRESHOLDS, Aggregate, CellCurve, Profiles
from difftori.report.checks import missing_seeds, short_runs
from difftori.report.curves import format_steps
from difftori.report.published import PublishedCurve, PublishedKey
from difftori.report.sheets import Cell, Sheet
from difftori.report.statistics import Estimate

Rows = list[list[str]]

CURVE_COLUMNS = (
    *("method", "task", "modality", "env_step", "mean", "std", "n_seeds", "source"),
    *("value", "ci_low", "ci_high", "all_seeds"),
)
"""those of published curves first, so that the file can be overlaid like one"""
SHOWN_THRESHOLDS = (0.1, 0.25, 0.5, 0.75, 0.9)


def csv_text(columns: Sequence[str], rows: Rows) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return buffer.getvalue()


def markdown_table(columns: Sequence[str], rows: Rows) -> str:
    """The first column left, the others right."""
    lines = [list(columns), ["---", *["---:"] * (len(columns) - 1)], *rows]
    cells = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def curve_rows(
    sheet: Sheet,
    curves: Mapping[Cell, CellCurve],
    published: Mapping[PublishedKey, PublishedCurve],
) -> Rows:
    """``CURVE_COLUMNS`` of every point drawn."""
    rows = []
    for cell, curve in sorted(curves.items()):
        estimate = curve.estimate
        for i, step in enumerate(curve.steps):
            numbers = (estimate.value[i], estimate.low[i], estimate.high[i])
            rows.append(
                [
                    *(str(cell.method), cell.task, sheet.modality, str(step)),
                    *(_plain(curve.mean[i]), _plain(curve.std[i]), str(curve.count[i]), "runs"),
                    *(*map(_plain, numbers), str(bool(curve.complete[i])).lower()),
                ]
            )
    for key, theirs in published.items():
        points = zip(theirs.mean.steps, theirs.mean.scores, theirs.std, strict=True)
        for step, mean, std in points:
            values = [_plain(mean), _plain(std), theirs.seeds, theirs.source]
            rows.append([*key, str(step), *values, "", "", "", ""])
    return rows


def curve_summary(
    sheet: Sheet,
    curves: Mapping[Cell, CellCurve],
    published: Mapping[PublishedKey, PublishedCurve],
) -> str:
    """Each task at the last env step at which every seed of every method has a value."""
    names = list(dict.fromkeys(key.method for key in published))
    columns = ["task", "env step", *map(sheet.label, sheet.methods), *names]
    rows = []
    for task in sheet.tasks:
        ours = {cell.method: curve for cell, curve in curves.items() if cell.task == task}
        ends = [int(curve.steps[curve.complete][-1]) for curve in ours.values() if _reach(curve)]
        if not ends:
            continue
        end = min(ends)
        row = [task, f"{end:,}"]
        row += [_at(ours.get(method), end, sheet) for method in sheet.methods]
        row += [
            _published_at(published.get(PublishedKey(name, task, sheet.modality)), end, sheet)
            for name in names
        ]
        rows.append(row)
    if len(columns) - 2 > len(rows):
        # more methods than tasks: one line for each method
        tasks = [f"{row[0]} at {row[1]}" for row in rows]
        turned = [[columns[i], *[row[i] for row in rows]] for i in range(2, len(columns))]
        return markdown_table(["method", *tasks], turned)
    return markdown_table(columns, rows)


def _reach(curve: CellCurve) -> bool:
    return bool(curve.complete.any())


def _at(curve: CellCurve | None, step: int, sheet: Sheet) -> str:
    if curve is None or not _reach(curve):
        return "—"
    steps = curve.steps[curve.complete]
    if not steps[0] <= step <= steps[-1]:
        return "—"
    numbers = [
        float(np.interp(step, steps, values[curve.complete]))
        for values in (curve.estimate.value, curve.estimate.low, curve.estimate.high)
    ]
    return _with_interval(*numbers, digits=_digits(sheet))


def _published_at(curve: PublishedCurve | None, step: int, sheet: Sheet) -> str:
    if curve is None:
        return "—"
    steps, digits = curve.mean.steps, _digits(sheet)
    if not steps[0] <= step <= steps[-1]:
        return "—"
    mean = float(np.interp(step, steps, curve.mean.scores))
    std = float(np.interp(step, steps, curve.std))
    return f"{mean:.{digits}f}" + ("" if math.isnan(std) else f" ± {std:.{digits}f}")


def run_table(sheet: Sheet, expected: Sequence[int] | None) -> str:
    """Which seeds stand behind each curve."""
    rows = []
    for cell in sorted(sheet.cells):
        runs = sheet.cells[cell]
        short = [
            f"{seed} ({format_steps(run.evaluated_until)} of {format_steps(run.train_steps)})"
            for seed, run in short_runs(runs).items()
        ]
        there = [str(seed) for seed, run in runs.items() if run.evaluations]
        missing = [str(seed) for seed in missing_seeds(sheet, cell, expected)]
        rows.append(
            [
                *(cell.task, str(cell.method), ", ".join(there) or "none"),
                *(", ".join(missing) or "none", ", ".join(short) or "none"),
            ]
        )
    return markdown_table(["task", "method", "seeds", "missing seeds", "short seeds"], rows)


def aggregate_rows(result: Aggregate) -> Rows:
    rows = []
    for curve in (*result.curves, *result.published):
        who = [curve.label, str(len(result.tasks)), str(curve.runs or "")]
        for i, step in enumerate(curve.steps):
            numbers = (curve.estimate.value[i], curve.estimate.low[i], curve.estimate.high[i])
            rows.append([*who, str(step), *map(_plain, numbers)])
    return rows


AGGREGATE_COLUMNS = ("method", "n_tasks", "n_runs", "env_step", "value", "ci_low", "ci_high")


def aggregate_summary(result: Aggregate) -> str:
    """Each method at the last env step that all methods reached."""
    drawn = [curve for curve in (*result.curves, *result.published) if len(curve.steps)]
    ours = [int(curve.steps[-1]) for curve in result.curves if len(curve.steps)]
    end = min(ours, default=0)
    rows = []
    for curve in drawn:
        if curve.steps[0] <= end <= curve.steps[-1]:
            numbers = [
                float(np.interp(end, curve.steps, values))
                for values in (curve.estimate.value, curve.estimate.low, curve.estimate.high)
            ]
            runs = str(curve.runs or "published")
            rows.append([curve.label, runs, f"{end:,}", _with_interval(*numbers, digits=3)])
    return markdown_table(["method", "runs", "env step", "normalized score"], rows)


PROFILE_COLUMNS = ("method", "n_tasks", "n_runs", "env_step", "threshold", "share", "low", "high")


def profile_rows(result: Profiles) -> Rows:
    rows = []
    for profile in result.profiles:
        who = [profile.label, str(len(result.tasks)), str(profile.runs), str(result.env_step)]
        for i, threshold in enumerate(THRESHOLDS):
            interval = profile.estimate
            numbers = (interval.value[i], interval.low[i], interval.high[i])
            rows.append([*who, f"{threshold:.2f}", *map(_plain, numbers)])
    return rows


def profile_summary(result: Profiles) -> str:
    """The share of runs above a few scores."""
    rows = []
    for profile in result.profiles:
        cells = [_interval_at(profile.estimate, threshold) for threshold in SHOWN_THRESHOLDS]
        rows.append([profile.label, str(profile.runs), *cells])
    return markdown_table(["method", "runs", *(f"τ = {t:g}" for t in SHOWN_THRESHOLDS)], rows)


def _interval_at(estimate: Estimate, threshold: float) -> str:
    i = int(np.argmin(np.abs(THRESHOLDS - threshold)))
    return _with_interval(estimate.value[i], estimate.low[i], estimate.high[i], digits=2)


def _with_interval(value: float, low: float, high: float, *, digits: int) -> str:
    text = f"{value:.{digits}f}"
    return text if math.isnan(low) else f"{text} [{low:.{digits}f}, {high:.{digits}f}]"


def _digits(sheet: Sheet) -> int:
    return 2 if sheet.score.column == "success" else 0


def _plain(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6g}"
