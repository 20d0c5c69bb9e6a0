"""What a reader of the pictures must know: missing and short seeds, mixed versions and settings."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from difftori.report.analysis import Aggregate, CellCurve
from difftori.report.curves import format_steps
from difftori.report.published import PublishedCurve, PublishedKey, drawn_until
from difftori.report.runs import Run
from difftori.report.sheets import Cell, Sheet

OF_THE_PLACE = frozenset(
    {
        *("seed", "log_dir", "device", "buffer_device", "threads", "resume", "overwrite"),
        *("save_every_minutes", "save_model", "save_video", "train_steps", "eval_freq"),
        *("modality_train_steps", "max_nonfinite", "preset"),
    }
)
"""keys that may differ between seeds without making another experiment of them"""
OF_TRACKERS = ("use_", "wandb_")
MANY_PUBLISHED = 6


def missing_seeds(sheet: Sheet, cell: Cell, expected: Iterable[int] | None) -> list[int]:
    """Seeds without an evaluation: of ``expected``, or of those the method has anywhere."""
    wanted = set(sheet.seeds(cell.method) if expected is None else expected)
    runs = sheet.cells.get(cell, {})
    wanted |= set(runs)
    return sorted(seed for seed in wanted if seed not in runs or not runs[seed].evaluations)


def short_runs(runs: Mapping[int, Run]) -> dict[int, Run]:
    """Those that were evaluated, and have evaluations still to come."""
    return {seed: run for seed, run in runs.items() if run.evaluations and run.is_short}


def seed_notes(sheet: Sheet, expected: Iterable[int] | None) -> list[str]:
    """A sentence for each method and task of which seeds are missing or short."""
    notes = []
    for method in sheet.methods:
        for task in sheet.tasks:
            cell = Cell(method, task)
            if cell not in sheet.cells:
                continue
            where = f"{task} {sheet.modality} {method}"
            missing = missing_seeds(sheet, cell, expected)
            if missing:
                notes.append(f"{where}: no evaluation of {_seeds(missing)}")
            short = [
                f"seed {seed} is at {format_steps(run.evaluated_until)} of "
                f"{format_steps(run.train_steps)} env steps"
                for seed, run in short_runs(sheet.cells[cell]).items()
            ]
            if short:
                notes.append(f"{where}: {', '.join(short)}")
    return notes


def half_written(runs: Sequence[Run]) -> list[str]:
    """A sentence if half-written lines were left out."""
    count = sum(run.half_written for run in runs)
    if not count:
        return []
    return [f"half-written last lines are left out, of {_count(count, 'run')}"]


def mixed_settings(sheet: Sheet) -> list[str]:
    """A sentence for each curve whose seeds were run with different settings."""
    notes = []
    for cell, runs in sorted(sheet.cells.items()):
        parts = []
        for key in sorted({key for run in runs.values() for key in run.config}):
            if key in OF_THE_PLACE or key.startswith(OF_TRACKERS):
                continue
            values: dict[str, list[int]] = defaultdict(list)
            for seed, run in runs.items():
                values[str(run.config.get(key, "unset"))].append(seed)
            if len(values) > 1:
                each = [f"{value} ({_seeds(seeds)})" for value, seeds in values.items()]
                parts.append(f"{key} {', '.join(each)}")
        if parts:
            where = f"{cell.task} {sheet.modality} {cell.method}"
            notes.append(f"{where} mixes settings: {'; '.join(parts)}")
    return notes


def unknown_versions(runs: Sequence[Run]) -> list[str]:
    """A sentence if no run says what it was made with."""
    if any(run.provenance is not None for run in runs):
        return []
    return ["these runs were made before runs recorded their versions"]


def mixed_versions(runs: Sequence[Run]) -> list[str]:
    """A sentence for each package, Python or commit that is not the same in all runs.

    Nothing if no run says what it was made with: that is ``unknown_versions``.
    """
    known = [run.provenance for run in runs if run.provenance is not None]
    if not known:
        return []
    notes = []
    if len(known) < len(runs):
        unknown = [run for run in runs if run.provenance is None]
        notes.append(
            f"the versions of {len(unknown)} of {len(runs)} runs are unknown, for example of "
            f"{unknown[0].folder}"
        )
    packages = sorted({name for provenance in known for name in provenance.versions})
    columns: dict[str, list[Any]] = {
        "python": [provenance.python for provenance in known],
        **{name: [each.versions.get(name, "none") for each in known] for name in packages},
        "git commit": [each.git_commit[:10] or "unknown" for each in known],
    }
    for name, values in columns.items():
        counts = {value: values.count(value) for value in sorted(set(values))}
        if len(counts) > 1:
            parts = [f"{value or 'unknown'} ({_count(n, 'run')})" for value, n in counts.items()]
            notes.append(f"the runs mix versions of {name}: {', '.join(parts)}")
    dirty = sum(provenance.git_dirty for provenance in known)
    if dirty:
        notes.append(f"{_count(dirty, 'run')} had uncommitted changes; see their provenance.diff")
    return notes


def aggregate_notes(
    sheet: Sheet, curves: Mapping[Cell, CellCurve], result: Aggregate, *, overlaid: bool
) -> list[str]:
    """Which tasks and methods are not in it, and where it ends early.

    Args:
        overlaid: published curves were asked for.
    """
    notes = []
    left_out = [task for task in sheet.tasks if task not in result.tasks]
    if left_out:
        notes.append(f"the aggregate leaves out tasks that some method lacks: {_list(left_out)}")
    drawn = {curve.label: curve for curve in result.curves}
    for method in sheet.methods:
        label = sheet.label(method)
        cells = [Cell(method, task) for task in result.tasks]
        lacks = [cell.task for cell in cells if cell not in curves]
        if label not in drawn:
            notes.append(f"the aggregate leaves out {label}, which lacks {_list(lacks)}")
            continue
        steps = drawn[label].steps
        end, reached = int(max(steps, default=0)), max(int(curves[c].steps[-1]) for c in cells)
        if end < reached:
            hint = ""
            if _whole_runs_reach([(sheet.cells[c], curves[c].seeds) for c in cells]) > end:
                hint = "; --drop-short leaves short ones out"
            notes.append(
                f"the aggregate of {label} ends at {format_steps(end)} env steps, which all its "
                f"runs reached{hint}"
            )
    if overlaid and not result.published:
        notes.append(f"no published method has all {len(result.tasks)} tasks of the aggregate")
    return notes


def _whole_runs_reach(tasks: Iterable[tuple[Mapping[int, Run], Iterable[int]]]) -> int:
    """The env step that all runs would have reached if the short ones were left out.

    Of each task the runs, and the seeds that are drawn. 0: none is short, or a task would have no
    run left; tasks may be of different length.
    """
    ends, any_short = [], False
    for runs, seeds in tasks:
        drawn = [runs[seed] for seed in seeds]
        whole = [run.evaluated_until for run in drawn if not run.is_short]
        any_short |= len(whole) < len(drawn)
        ends.append(min(whole, default=0))
    return min(ends) if any_short else 0


def published_notes(
    sheet: Sheet, published: Mapping[PublishedKey, PublishedCurve], end: int
) -> list[str]:
    """What axes that end at env step ``end`` do not show of published curves, or show badly."""
    drawn = drawn_until(end, published)
    if published and not drawn:
        first = min(int(curve.mean.steps[0]) for curve in published.values())
        return [
            f"the published curves begin at {first:,} env steps, where these axes have ended; "
            f"--until {first * 2} makes them longer"
        ]
    notes = []
    names = {key.method for key in drawn}
    late = sorted({key.method for key in published} - names)
    if late:
        notes.append(
            f"published methods that begin after {end:,} env steps, so that nothing of them is "
            f"drawn: {_list(late)}"
        )
    if len(names) > MANY_PUBLISHED:
        notes.append(
            f"{len(names)} published methods in one picture are hard to tell apart; "
            "--published-methods chooses"
        )
    larger = [task for task in sheet.tasks if beyond_maximum(sheet, drawn, task)]
    if larger:
        notes.append(
            "published scores are larger than these runs can reach, so episodes or units differ: "
            f"{_list(larger)}"
        )
    return notes


def beyond_maximum(
    sheet: Sheet, published: Mapping[PublishedKey, PublishedCurve], task: str
) -> bool:
    """A published mean is not between 0 and the most that these runs can reach on ``task``.

    The runs may have had shorter episodes. A few percent above are a matter of rounding.
    """
    maximum = sheet.maximum(task)
    curves = [
        curve
        for key, curve in published.items()
        if (key.task, key.modality) == (task, sheet.modality)
    ]
    if maximum is None or not curves:
        return False
    shares = np.concatenate([curve.mean.scores for curve in curves]) / maximum
    return bool((np.abs(shares - 0.5) > 0.53).any())


def _list(names: Sequence[str]) -> str:
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _seeds(seeds: Sequence[int]) -> str:
    return f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}"
