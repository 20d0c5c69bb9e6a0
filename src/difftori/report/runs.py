"""Reading run folders, also those that a process is writing to; nothing here changes them."""

import csv
import glob
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

LOGS = ("metrics.jsonl", "eval.csv", ".lock")
"""a folder with ``config.yaml`` and one of these is a run's"""
FILES = ("config.yaml", "eval.csv", "metrics.jsonl")
"""files by which a run may be named in place of its folder"""
TAIL_BYTES = 1 << 16


class RunFolderError(ValueError):
    """A folder that cannot be read as a run; the message is one line for the user."""


class RunKey(NamedTuple):
    """What tells runs apart, in the order of the folders they lie in."""

    task: str
    modality: str
    mode: str
    exp_name: str
    seed: int

    def __str__(self) -> str:
        return "/".join(map(str, self))


class Evaluation(NamedTuple):
    """A row of ``eval.csv``."""

    env_step: int
    reward: float
    """mean return of the episodes"""
    success: float
    """mean success of the episodes, 0 to 1; NaN where the suite knows none"""


@dataclass(frozen=True)
class Provenance:
    """``provenance.json``: what the run was made with; a field is empty if the file lacks it."""

    command: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    python: str = ""
    host: str = ""
    git_commit: str = ""
    git_dirty: bool = False


@dataclass(frozen=True)
class Run:
    """One run folder as it stands now."""

    folder: Path
    key: RunKey
    config: Mapping[str, Any]
    """flat keys, resolved"""
    evaluations: tuple[Evaluation, ...]
    """in order of ``env_step``, each step once, finite rewards only"""
    provenance: Provenance | None
    problems: tuple[str, ...]
    """what could not be read, a sentence each"""
    half_written: bool
    """the last line of ``eval.csv`` is not whole, and was left out: a process writes it"""

    @property
    def train_steps(self) -> int:
        """Env steps of the whole run."""
        return int(self.config["train_steps"])

    @property
    def last_eval_due(self) -> int:
        """Env step from which the last evaluation of the whole run is due; 0: there is none."""
        every = int(self.config["eval_freq"])
        return self.train_steps // every * every

    @property
    def evaluated_until(self) -> int:
        """Env step of the last evaluation; 0 if there is none yet."""
        return self.evaluations[-1].env_step if self.evaluations else 0

    @property
    def is_short(self) -> bool:
        """Evaluations are still to come."""
        return self.evaluated_until < self.last_eval_due


def find_run_folders(places: Sequence[str | Path]) -> list[Path]:
    """Every run folder in ``places``: run folders, folders above them, or globs of either.

    A run may also be named by one of ``FILES`` in its folder. Any other file is refused rather
    than taken for the folder around it, which could hold hundreds of runs.

    Raises:
        RunFolderError: a place that does not exist, or holds no run.
    """
    found: dict[Path, Path] = {}
    for place in places:
        matches = [Path(place)]
        if not matches[0].exists():
            matches = [Path(match) for match in sorted(_expand(str(place)))]
        if not matches:
            raise RunFolderError(f"{place}: no such folder")
        folders = [folder for match in matches for folder in _folders_in(match)]
        if not folders and Path(place).is_file():
            raise RunFolderError(
                f"{place} is no file of a run; give a run's folder, or its {' or '.join(FILES)}"
            )
        if not folders:
            raise RunFolderError(
                f"{place} holds no run: a run's folder has config.yaml and metrics.jsonl"
            )
        # a run that two places lead to counts once
        for folder in folders:
            found.setdefault(folder.resolve(), folder)
    return list(found.values())


def _expand(pattern: str) -> list[str]:
    # Path.glob takes no absolute patterns
    return glob.glob(pattern, recursive=True)  # noqa: PTH207


def _folders_in(place: Path) -> Iterator[Path]:
    if place.is_file():
        if place.name in FILES and _is_run(other.name for other in place.parent.iterdir()):
            yield place.parent
        return
    for parent, children, files in os.walk(place, followlinks=True):
        if _is_run(files):
            children.clear()  # W&B keeps files of the same names further down
            yield Path(parent)
        # in place, as os.walk asks for
        children[:] = sorted(child for child in children if not child.startswith("."))


def _is_run(names: Iterable[str]) -> bool:
    files = set(names)
    return "config.yaml" in files and any(name in files for name in LOGS)


def read_run(folder: Path) -> Run:
    """The run in ``folder``.

    Raises:
        RunFolderError: ``config.yaml`` cannot be read or does not describe a run.
    """
    config = _read_config(folder)
    evaluations, problems, half_written = read_evaluations(folder / "eval.csv")
    provenance, problem = _read_provenance(folder / "provenance.json")
    task, modality, mode, exp_name = (str(config[name]) for name in RunKey._fields[:-1])
    return Run(
        folder=folder,
        key=RunKey(task, modality, mode, exp_name, int(config["seed"])),
        config=config,
        evaluations=evaluations,
        provenance=provenance,
        problems=(*problems, *([problem] if problem else [])),
        half_written=half_written,
    )


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.yaml"
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise RunFolderError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
    if not isinstance(config, dict):
        raise RunFolderError(f"{path} holds no keys")
    for name in RunKey._fields:
        if config.get(name) is None:
            raise RunFolderError(f"{path} lacks {name}")
    for name in ("seed", "train_steps", "eval_freq"):
        value = config.get(name)
        if not isinstance(value, int) or value < (name != "seed"):
            raise RunFolderError(f"{path}: {name}={value} is not a number of the right size")
    return config


def read_evaluations(path: Path) -> tuple[tuple[Evaluation, ...], tuple[str, ...], bool]:
    """The whole rows of an ``eval.csv``, what was wrong with it, and if half a line follows them.

    A missing file has no rows.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return (), (), False
    except OSError as error:
        return (), (f"{path} cannot be read: {error.strerror}",), False
    # what follows the last line end is being written, and would read as another number
    whole, _, half = text.rpartition("\n")
    rows: dict[int, Evaluation] = {}
    bad = 0
    for cells in csv.DictReader(whole.splitlines()):
        row = _evaluation(cells)
        if row is None:
            bad += 1
        else:
            rows[row.env_step] = row
    problems = (f"{path}: {bad} rows without a finite return are left out",) if bad else ()
    return tuple(rows[step] for step in sorted(rows)), problems, bool(half)


def _evaluation(cells: Mapping[str | Any, str | Any]) -> Evaluation | None:
    try:
        step, reward = int(cells["env_step"]), float(cells["episode_reward"])
        success = float(cells.get("episode_success") or math.nan)
    except (KeyError, TypeError, ValueError):
        return None
    return Evaluation(step, reward, success) if math.isfinite(reward) and step >= 0 else None


def _read_provenance(path: Path) -> tuple[Provenance | None, str]:
    """What the file says of the latest session, and what is wrong with it.

    A missing file is no fault.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        record = (record.get("sessions") or [record])[-1]
        versions = record.get("versions") or {}
        return Provenance(
            command=tuple(map(str, record.get("command") or ())),
            versions={str(name): str(version) for name, version in versions.items()},
            python=str(record.get("python") or ""),
            host=str(record.get("host") or ""),
            git_commit=str(record.get("git_commit") or ""),
            git_dirty=bool(record.get("git_dirty")),
        ), ""
    except FileNotFoundError:
        return None, ""
    except (OSError, ValueError, AttributeError, TypeError) as error:
        return None, f"{path} cannot be read: {error}"


def last_record(folder: Path, category: str | None = None) -> dict[str, Any] | None:
    """The last whole record of ``metrics.jsonl``, or the last of ``category``, near its end."""
    return next(latest_records(folder, category), None)


def latest_records(folder: Path, category: str | None = None) -> Iterator[dict[str, Any]]:
    """The whole records near the end of ``metrics.jsonl``, the newest first.

    Reads the end of the file only, so that asking hundreds of runs is quick.
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
