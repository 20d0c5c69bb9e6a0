"""Where run folders are, and their small files, also while a process writes to them."""

import glob
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

KEY = ("task", "modality", "mode", "exp_name", "seed")
"""what tells runs apart, in the order of the folders they lie in"""
TAIL_BYTES = 1 << 16


class RunFolderError(ValueError):
    """A place that holds no run that can be read; the message is one line for the user."""


def holds_curve(names: set[str]) -> bool:
    """Whether a folder with files and folders of these ``names`` has, or will have, a curve."""
    return "config.yaml" in names and not names.isdisjoint({"eval.csv", "metrics.jsonl", ".lock"})


def walk_runs(place: Path, is_run: Callable[[set[str]], bool]) -> Iterator[Path]:
    """The folders in and below ``place`` that ``is_run``, by name; none within another."""
    for parent, children, files in os.walk(place, followlinks=True):
        if is_run({*children, *files}):
            children.clear()  # W&B keeps files of the same names further down
            yield Path(parent)
        # in place, as os.walk asks for
        children[:] = sorted((c for c in children if not c.startswith(".")), key=_by_number)


def _by_number(name: str) -> tuple[int, str]:
    """So that seed 3 comes before seed 21."""
    return (int(name), "") if name.isdigit() else (-1, name)


def find_runs(places: Sequence[str]) -> dict[Path, str]:
    """The label of each run folder in ``places``, empty for a run without one.

    Args:
        places: run folders, folders above them, globs of either, each as ``PLACE`` or
            ``LABEL=PLACE``. A labelled place overrides an unlabelled one.

    Raises:
        RunFolderError: a place does not exist or holds no run, or a run has two labels.
    """
    found: dict[Path, tuple[Path, str]] = {}
    for place in places:
        label, matches = "", _expand(place)
        if not matches and "=" in place:
            label, _, pattern = place.partition("=")
            matches = _expand(pattern)
        if not matches:
            raise RunFolderError(f"{place}: no such folder")
        folders = [folder for match in matches for folder in walk_runs(Path(match), holds_curve)]
        if not folders:
            raise RunFolderError(
                f"{place} holds no run: a run's folder has config.yaml and eval.csv"
            )
        for folder in folders:
            # a run that two places lead to counts once
            _, other = found.get(folder.resolve(), (folder, ""))
            if label and other and label != other:
                raise RunFolderError(f"{folder} is labelled both {other} and {label}")
            found[folder.resolve()] = (folder, label or other)
    return dict(found.values())


def _expand(pattern: str) -> list[str]:
    if os.path.exists(pattern):  # noqa: PTH110
        return [pattern]
    # Path.glob takes no absolute patterns
    return sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207


def latest_records(folder: Path, category: str | None = None) -> Iterator[dict[str, Any]]:
    """The whole records near the end of ``metrics.jsonl``, the newest first.

    Reads the end of the file only, so that hundreds of runs are read quickly.
    """
    try:
        with (folder / "metrics.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            lines = file.read().split(b"\n")[:-1]
    except OSError:
        return
    for line in reversed(lines):
        try:
            record = json.loads(line)
        except ValueError:
            continue  # the first line may be cut, and a disk may have spoiled others
        if isinstance(record, dict) and category in (None, record.get("category")):
            yield record


def last_record(folder: Path, category: str | None = None) -> dict[str, Any] | None:
    """The last whole record of ``metrics.jsonl``, or the last of ``category``, near its end."""
    return next(latest_records(folder, category), None)
