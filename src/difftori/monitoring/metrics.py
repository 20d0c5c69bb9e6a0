"""Console, files and trackers behind one log call."""

import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from difftori.checkpoints.files import write_bytes
from difftori.config import ConfigError
from difftori.monitoring.console import format_record
from difftori.monitoring.status import describe
from difftori.monitoring.trackers import Tracker, named

Value = float | int | str | bool
Category = Literal["train", "eval"]

EVAL_COLUMNS = ("env_step", "episode_reward", "episode_success")

logger = logging.getLogger(__name__)


class Metrics:
    """The one place that a record goes to: ``metrics.jsonl``, ``eval.csv``, console, trackers.

    The files are the truth; what a tracker shows is a copy of them. Fields that hold wall-clock
    values end in ``_seconds``; all others repeat exactly after a resume.
    What the disk refuses stays in memory, and is written as soon as a later record can be.

    An existing run folder must be cut to its checkpoint with ``truncate`` before the first
    ``log``; to no records if the run starts from nothing.
    """

    def __init__(self, folder: Path) -> None:
        self._path, self._eval_path = folder / "metrics.jsonl", folder / "eval.csv"
        self._lines: list[str] = []
        self._is_whole = True
        """whether the file holds all of the lines, and nothing else"""
        self._eval_rows: list[str] = []
        self._eval_is_whole = True
        self._last: dict[str, dict[str, Any]] = {}
        """the last record of each category"""
        self._trackers: list[Tracker] = []
        self._began_at, self._earlier_seconds = time.monotonic(), 0.0

    def attach(self, trackers: Sequence[Tracker]) -> None:
        """Send later records to these too."""
        self._trackers += trackers

    def log(self, record: Mapping[str, Value], category: Category) -> None:
        """Write ``record``, which must hold ``env_step``, to every place, with ``elapsed_seconds``.

        Never raises for a disk or a tracker that fails.
        """
        assert "env_step" in record, f"a record needs env_step, got {sorted(record)}"
        seconds = self._earlier_seconds + time.monotonic() - self._began_at
        record = {**record, "elapsed_seconds": seconds}  # of training, earlier processes included
        self._last[category] = record
        self._lines.append(_json_line(record, category))
        self._write()
        if category == "eval":
            self._eval_rows.append(_csv_row(record))
            self._write_evaluations()
        logger.info(format_record(category, record))
        step = int(record["env_step"])
        self._each(lambda tracker: tracker.log(named(record, category), category, step))

    def video(self, path: Path, env_step: int) -> None:
        """Show a video file in the trackers."""
        self._each(lambda tracker: tracker.video(path, env_step))

    def artifact(self, path: Path) -> None:
        """Hand the file of weights to the trackers to keep."""
        self._each(lambda tracker: tracker.artifact(path))

    def close(self, exit_code: int = 0) -> None:
        """Write what is still in memory and close the trackers; 0 marks the run as finished."""
        if not self._is_whole:
            self._write()
        if not self._eval_is_whole:
            self._write_evaluations()
        self._each(lambda tracker: tracker.close(exit_code))

    @property
    def records(self) -> int:
        """Of both categories. A length in bytes would differ with each wall-clock value."""
        return len(self._lines)

    def truncate(self, records: int, env_step: int = 0) -> None:
        """Cut the files to the records that the checkpoint of ``env_step`` knows.

        Warns where some are missing; ``eval.csv`` then keeps what it has of that time.

        Raises ConfigError if a file is there and cannot be read.
        """
        try:
            text = self._path.read_text(errors="replace") if self._path.exists() else ""
        except OSError as error:
            raise ConfigError(f"{self._path} cannot be read: {error.strerror}") from error
        # what follows the last line end was written by half
        self._lines = [f"{line}\n" for line in text.split("\n")[:-1]][:records]
        found = [record for line in self._lines if (record := _read_line(line)) is not None]
        if len(found) < records:
            logger.warning(
                f"{self._path} holds {len(found)} records, the checkpoint knows {records}: "
                "the missing ones are lost, the run goes on"
            )
            self._eval_rows = self._whole_rows(env_step)
        for record in found:
            self._last[record["category"]] = record
            row = _csv_row(record) if record["category"] == "eval" else None
            if row is not None and row not in self._eval_rows:
                self._eval_rows.append(row)
        self._eval_rows.sort(key=lambda row: int(row.partition(",")[0]))
        if text:
            self._is_whole = False
            self._write()
        if self._eval_path.exists():
            self._write_evaluations()
        seconds = (r.get("elapsed_seconds", 0.0) for r in self._last.values())
        self._began_at, self._earlier_seconds = time.monotonic(), max(seconds, default=0.0)

    @property
    def next_env_step(self) -> int:
        """Records from this env step on are still to come; 0 if there is none yet."""
        return max((record["env_step"] + 1 for record in self._last.values()), default=0)

    def _write(self) -> None:
        """Append the last line, or write the whole file if it is not as it should be."""
        try:
            if self._is_whole:
                with self._path.open("a") as file:
                    file.write(self._lines[-1])
            else:
                write_bytes(self._path, "".join(self._lines).encode())
                self._is_whole = True
        except OSError as error:
            self._is_whole = False
            logger.warning(f"{self._path} was not written: {error.strerror}; tried again later")

    def _whole_rows(self, env_step: int) -> list[str]:
        """Those that ``eval.csv`` has until an env step; empty if it cannot be read."""
        try:
            text = self._eval_path.read_text(errors="replace")
        except OSError:
            return []
        # the first line names the columns, and what follows the last line end is not whole
        steps = [(row, row.partition(",")[0]) for row in text.split("\n")[1:-1]]
        return [row for row, step in steps if step.isdigit() and int(step) <= env_step]

    def _write_evaluations(self) -> None:
        rows = [",".join(EVAL_COLUMNS), *self._eval_rows]
        try:
            write_bytes(self._eval_path, "".join(f"{row}\n" for row in rows).encode())
            self._eval_is_whole = True
        except OSError as error:
            self._eval_is_whole = False
            logger.warning(
                f"{self._eval_path} was not written: {error.strerror}; tried again later"
            )

    def _each(self, send: Callable[[Tracker], None]) -> None:
        """``send`` to each tracker; one that fails is told in one line, and gets nothing more."""
        for tracker in list(self._trackers):
            try:
                send(tracker)
            except Exception as error:  # W&B and TensorBoard raise many kinds; none ends a run
                logger.warning(
                    f"{tracker.name} is off from here on: {describe(error)}; "
                    f"{self._path.name} has all records"
                )
                self._trackers.remove(tracker)


def _read_line(line: str) -> dict[str, Any] | None:
    """The record; None if the disk spoiled the line, which must not stop a resume."""
    with suppress(ValueError, KeyError, TypeError, AttributeError):
        record: dict[str, Any] = json.loads(line)
        int(record["env_step"]), float(record.get("elapsed_seconds", 0.0))  # or it raises
        return record if record["category"] in ("train", "eval") else None
    return None


def _json_line(record: Mapping[str, Value], category: str) -> str:
    bad = [k for k, v in record.items() if isinstance(v, float) and not math.isfinite(v)]
    fields: dict[str, object] = {"category": category, **record, **dict.fromkeys(bad)}
    if bad:
        fields["non_finite"] = bad
    return json.dumps(fields, allow_nan=False) + "\n"


def _csv_row(record: Mapping[str, Value | None]) -> str:
    def cell(value: Value | None) -> str:
        if value is None:  # it was not finite when it was written
            return "nan"
        return str(int(value)) if isinstance(value, bool) else str(value)

    return ",".join(cell(record.get(key, "")) for key in EVAL_COLUMNS)
