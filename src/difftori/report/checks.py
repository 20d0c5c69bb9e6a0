"""What a reader of the pictures must know: missing and short seeds, mixed versions and settings."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

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
                f"seed {seed} is at {run.evaluated_until:,} of {run.train_steps:,} env steps"
                for seed, run in short_runs(sheet.cells[cell]).items()
            ]
            if short:
                notes.append(f"{where}: {', '.join(short)}")
    return notes


def mixed_settings(sheet: Sheet) -> list[str]:
    """A sentence for each curve whose seeds were run with different settings."""
    notes = []
    for cell, runs in sorted(sheet.cells.items()):
        keys = sorted({key for run in runs.values() for key in run.config})
        for key in keys:
            if key in OF_THE_PLACE or key.startswith(OF_TRACKERS):
                continue
            values: dict[str, list[int]] = defaultdict(list)
            for seed, run in runs.items():
                values[str(run.config.get(key, "unset"))].append(seed)
            if len(values) > 1:
                parts = [f"{value} ({_seeds(seeds)})" for value, seeds in values.items()]
                notes.append(
                    f"{cell.task} {sheet.modality} {cell.method} mixes {key}: {', '.join(parts)}"
                )
    return notes


def mixed_versions(runs: Sequence[Run]) -> list[str]:
    """A sentence for each package, Python or commit that is not the same in all runs."""
    known = [run.provenance for run in runs if run.provenance is not None]
    if not known:
        return [f"the versions that made these {len(runs)} runs are unknown: no provenance.json"]
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


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _seeds(seeds: Sequence[int]) -> str:
    return f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}"
