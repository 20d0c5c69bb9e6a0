"""Where run folders are, and the last records of a run, also while a process writes to them."""

import glob
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from difftori.monitoring.status import FILE_NAME, QUEUED_FILE

RUN_FILES = {"eval.csv", "metrics.jsonl", FILE_NAME, QUEUED_FILE}
"""a folder with one of them is a run's"""


class RunFolderError(ValueError):
    """A place that holds no run that can be read; the message is one line for the user."""


def walk_runs(place: Path) -> Iterator[Path]:
    """The run folders in and below ``place``, by name, none within another.

    Those of runs that wait to begin are among them.
    """
    for parent, children, files in os.walk(place, followlinks=True):
        if not RUN_FILES.isdisjoint(files):
            children.clear()  # W&B keeps files of the same names further down
            yield Path(parent)
        # in place, as os.walk asks for
        children[:] = sorted((c for c in children if not c.startswith(".")), key=_by_number)


def _by_number(name: str) -> tuple[int, str]:
    """So that seed 3 comes before seed 21."""
    return (int(name) if name.isdigit() else -1, name)


def has_record(folder: Path) -> bool:
    """Whether the run itself, or what is going to start it, tells of it there."""
    return any((folder / name).exists() for name in RUN_FILES - {"eval.csv"})


def find_runs(places: Sequence[str]) -> dict[Path, str]:
    """The label of each run in ``places`` that has begun, empty for a run without one.

    Args:
        places: run folders, folders above them, globs of either, each as ``PLACE`` or
            ``LABEL=PLACE``.

    Raises:
        RunFolderError: a place does not exist or holds no run.
    """
    found: dict[Path, str] = {}
    spelled: dict[Path, Path] = {}
    for place in places:
        label, matches = "", _expand(place)
        if not matches and "=" in place:
            label, _, pattern = place.partition("=")
            matches = _expand(pattern)
        if not matches:
            raise RunFolderError(f"{place}: no such folder")
        if label.startswith("_"):
            raise RunFolderError(f"{place}: a picture leaves out labels that begin with _")
        folders = [folder for match in matches for folder in walk_runs(Path(match))]
        begun = [folder for folder in folders if (folder / "config.yaml").exists()]
        if not begun:
            raise RunFolderError(
                f"{place} holds no run: a run's folder has config.yaml and eval.csv"
            )
        for folder in begun:
            first = spelled.setdefault(folder.resolve(), folder)
            found[first] = label or found.get(first, "")
    return found


def _expand(pattern: str) -> list[str]:
    # Path.glob takes no absolute patterns
    return sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207


def latest_records(folder: Path, category: str | None = None) -> Iterator[dict[str, Any]]:
    """The whole records of ``metrics.jsonl``, or those of ``category``, the newest first."""
    path = folder / "metrics.jsonl"
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    # what follows the last line end is being written
    for line in reversed(text.split("\n")[:-1]):
        with suppress(ValueError, TypeError, KeyError):  # a disk may have spoiled a line
            record = json.loads(line)
            if category in (None, record["category"]):
                yield record


def last_record(folder: Path, category: str | None = None) -> dict[str, Any]:
    """The newest of ``latest_records``; empty if there is none."""
    return next(latest_records(folder, category), {})
