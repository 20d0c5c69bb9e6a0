"""From run folders to pictures and tables."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from matplotlib.figure import Figure

from difftori.report import drawing, tables
from difftori.report.analysis import (
    AggregateCurve,
    CellCurve,
    aggregate_curves,
    cell_curve,
    performance_profiles,
)
from difftori.report.checks import (
    aggregate_notes,
    half_written,
    mixed_settings,
    mixed_versions,
    published_notes,
    seed_notes,
    short_runs,
    unknown_versions,
)
from difftori.report.curves import Series
from difftori.report.published import PublishedCurve, PublishedKey, read_published
from difftori.report.runs import Run, RunFolderError, read_run
from difftori.report.sheets import Cell, Sheet, sheets_of
from difftori.report.statistics import CONFIDENCE, RESAMPLES, Metric

INTERVAL = (
    f"in brackets the {CONFIDENCE:.0%} percentile interval of {RESAMPLES:,} stratified bootstrap "
    "resamples of the runs, at each point by itself"
)
SHOWN_NOTES = 12
"""of one kind on the console"""


@dataclass(frozen=True)
class Request:
    """What a user asks for."""

    folders: Sequence[Path]
    """run folders"""
    out: Path
    metric: Metric = "mean"
    published: Path | None = None
    published_methods: Sequence[str] = ()
    until: int | None = None
    """env step at which the axes end"""
    expected_seeds: Sequence[int] | None = None
    drop_short: bool = False
    free_y: bool = False


def make(request: Request) -> list[Path]:
    """Write pictures and tables; returns their paths.

    Raises:
        RunFolderError: no run can be read.
        PublishedError: the file of published curves cannot be used.
        OSError: something cannot be written.
    """
    published: Mapping[PublishedKey, PublishedCurve] = {}
    notes: list[str] = []
    if request.published is not None:
        published, notes = read_published(request.published, request.published_methods)
    runs, told = _read_all(request.folders)
    sheets, doubles = sheets_of(runs)
    notes += [*told, *doubles, *half_written(runs), *mixed_versions(runs)]
    unknown = unknown_versions(runs)
    _warn([*notes, *unknown], f"{request.out}/*.md")
    request.out.mkdir(parents=True, exist_ok=True)
    paths = []
    for sheet in sheets:
        paths += _Pages(request, sheet, published, notes, unknown).write()
    if not paths:
        raise RunFolderError(_why_nothing(request, runs))
    return paths


def _why_nothing(request: Request, runs: Sequence[Run]) -> str:
    """Why there is nothing to draw, so that nobody looks for evaluations that are there."""
    firsts = [run.evaluations[0].env_step for run in runs if run.evaluations]
    if not firsts:
        return "none of these runs has an evaluation yet"
    if request.until is not None and min(firsts) > request.until:
        return (
            f"none of these runs has an evaluation at or before {request.until:,} env steps; "
            f"the first is at {min(firsts):,}"
        )
    return "--drop-short leaves out all of these runs that have an evaluation to draw"


def _read_all(folders: Sequence[Path]) -> tuple[list[Run], list[str]]:
    runs, problems = [], []
    for folder in folders:
        try:
            run = read_run(folder)
        except RunFolderError as error:
            problems.append(str(error))
            continue
        runs.append(run)
        problems += run.problems
    if not runs:
        raise RunFolderError(problems[0])
    return runs, problems


def _warn(notes: Sequence[str], more_in: str) -> None:
    """Print the first of ``notes``; the pages hold all of them."""
    for note in notes[:SHOWN_NOTES]:
        print(f"warning: {note}", file=sys.stderr)
    if len(notes) > SHOWN_NOTES:
        print(f"warning: {len(notes) - SHOWN_NOTES} more in {more_in}", file=sys.stderr)


class _Pages:
    """The pictures of one sheet, each with its tables."""

    def __init__(
        self,
        request: Request,
        sheet: Sheet,
        published: Mapping[PublishedKey, PublishedCurve],
        notes: Sequence[str],
        notes_on_runs: Sequence[str],
    ) -> None:
        """``notes`` stand on every page, ``notes_on_runs`` only beside the table of runs."""
        self._request = request
        self._sheet = sheet
        self._notes = list(notes)
        self._notes_on_runs = notes_on_runs
        own = [*seed_notes(sheet, request.expected_seeds), *mixed_settings(sheet)]
        self._series = self._choose_series(own)
        self._drawn = replace(
            sheet, cells={cell: runs for cell, runs in sheet.cells.items() if cell in self._series}
        )
        self._end = self._axis_end(bool(published))
        self._published = {
            key: curve
            for key, curve in published.items()
            if key.modality == sheet.modality and key.task in sheet.tasks
        }
        if published and not self._published:
            own.append(f"{request.published} has no curve for any {sheet.name} task here")
        own += published_notes(self._drawn, self._published, self._end)
        _warn(own, f"{self._stem('curves')}.md")
        self._notes += own
        self._paths: list[Path] = []

    def _choose_series(self, notes: list[str]) -> dict[Cell, dict[int, Series]]:
        chosen = {}
        for cell in self._sheet.cells:
            series = self._sheet.series(cell, self._request.until)
            if self._request.drop_short:
                for seed in short_runs(self._sheet.cells[cell]):
                    series.pop(seed, None)
            if series:
                chosen[cell] = series
        if self._request.drop_short and any(map(short_runs, self._sheet.cells.values())):
            notes.append("short seeds are left out of the curves")
        return chosen

    def _axis_end(self, overlaid: bool) -> int:
        """The last evaluation; beside published curves, the end of the longest run."""
        if self._request.until is not None:
            return self._request.until
        if overlaid:
            return max(run.train_steps for runs in self._sheet.cells.values()
                       for run in runs.values())  # fmt: skip
        ends = [one.steps[-1] for series in self._series.values() for one in series.values()]
        return int(max(ends, default=1))

    def write(self) -> list[Path]:
        sheet, request = self._drawn, self._request
        if not self._series:
            return []
        curves = {
            cell: cell_curve(cell, series, request.metric) for cell, series in self._series.items()
        }
        self._write_curves(curves)
        result = aggregate_curves(sheet, self._series, self._published, request.metric)
        if result is not None and result.curves:
            notes = aggregate_notes(sheet, curves, result, overlaid=request.published is not None)
            _warn(notes, f"{self._stem('aggregate')}.md")
            figure = drawing.draw_aggregate(sheet, result, metric=request.metric, end=self._end)
            self._write(
                "aggregate",
                figure,
                tables.csv_text(tables.AGGREGATE_COLUMNS, tables.aggregate_rows(result)),
                tables.aggregate_summary(result),
                [
                    self._statistic("over tasks and seeds, each task counting the same"),
                    f"Score: {drawing.normalized_label(sheet, result.tasks).lower()}. "
                    f"Tasks: {', '.join(result.tasks)}.",
                    *self._interpolation(result.curves),
                ],
                notes=notes,
            )
        profiles = performance_profiles(sheet, self._series)
        if profiles is not None:
            self._write(
                "profiles",
                drawing.draw_profiles(sheet, profiles),
                tables.csv_text(tables.PROFILE_COLUMNS, tables.profile_rows(profiles)),
                tables.profile_summary(profiles),
                [
                    f"Share of runs whose score is above τ at {profiles.env_step:,} env steps, the "
                    f"last that every run reached, each task counting the same; {INTERVAL}.",
                    f"Score: {drawing.normalized_label(sheet, profiles.tasks).lower()}. "
                    f"Tasks: {', '.join(profiles.tasks)}.",
                ],
            )
        return self._paths

    def _write_curves(self, curves: Mapping[Cell, CellCurve]) -> None:
        sheet, request = self._drawn, self._request
        figure = drawing.draw_curves(
            sheet, curves, self._published,
            metric=request.metric, end=self._end, free_y=request.free_y,
        )  # fmt: skip
        about = [self._statistic("over seeds"), *self._interpolation(list(curves.values()))]
        if self._published:
            about.append("Published curves: mean ± standard deviation over seeds.")
        self._write(
            "curves",
            figure,
            tables.csv_text(
                tables.CURVE_COLUMNS, tables.curve_rows(sheet, curves, self._published)
            ),
            tables.curve_summary(sheet, curves, self._published),
            about,
            runs=tables.run_table(self._sheet, request.expected_seeds),
            notes=self._notes_on_runs,
        )

    def _statistic(self, over: str) -> str:
        if self._request.metric == "mean":
            return f"Mean {over}; {INTERVAL}."
        return f"Interquartile mean {over} (the mean where they are fewer than four); {INTERVAL}."

    def _interpolation(self, curves: Sequence[CellCurve | AggregateCurve]) -> list[str]:
        if not any(curve.interpolated for curve in curves):
            return []
        return [
            "Runs were evaluated at different env steps: their scores stand at those of the run "
            "that was evaluated least often, the others' interpolated linearly."
        ]

    def _stem(self, kind: str) -> Path:
        return self._request.out / f"{kind}-{self._sheet.name}"

    def _write(
        self,
        kind: str,
        figure: Figure,
        csv_text: str,
        table: str,
        about: Sequence[str],
        runs: str = "",
        notes: Sequence[str] = (),
    ) -> None:
        stem = self._stem(kind)
        paths = drawing.save(figure, stem)
        markdown = [f"# {kind.capitalize()}: {self._sheet.name}", "\n".join(about), table]
        if runs:
            markdown += ["## Runs", runs]
        notes = [*notes, *self._notes]
        if notes:
            markdown += ["## To know", "".join(f"- {note}\n" for note in notes)]
        for suffix, text in ((".csv", csv_text), (".md", "\n\n".join(map(str.rstrip, markdown)))):
            path = stem.with_name(stem.name + suffix)
            path.write_text(text.rstrip("\n") + "\n", encoding="utf-8")
            paths.append(path)
        print(f"{stem}: {', '.join(path.suffix[1:] for path in paths)}")
        self._paths += paths
