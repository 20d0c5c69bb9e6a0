"""Console, files and trackers behind one log call."""

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from difftori.monitoring.console import format_record
from difftori.monitoring.record_file import RecordFile
from difftori.monitoring.status import describe
from difftori.monitoring.trackers import Tracker, named

Value = float | int | str | bool
Category = Literal["train", "eval"]

EVAL_COLUMNS = ("env_step", "episode_reward", "episode_success")

logger = logging.getLogger(__name__)


class Metrics:
    """The one place that a record goes to: ``metrics.jsonl``, ``eval.csv``, console, trackers.

    The files are the truth; what a tracker shows is a copy of them. Fields that hold wall-clock
    values end in ``_seconds`` or ``_per_second``; all others repeat exactly after a resume.

    An existing run folder must be cut to its checkpoint with ``load_state_dict`` before the first
    ``log``; with zero counts if the run starts from nothing.
    """

    def __init__(self, folder: Path) -> None:
        self._metrics = RecordFile(folder / "metrics.jsonl")
        self._eval = RecordFile(folder / "eval.csv", header=",".join(EVAL_COLUMNS))
        self._last: dict[str, dict[str, Any]] = {}
        """the last record of each category"""
        self._trackers: list[Tracker] = []

    def attach(self, trackers: Sequence[Tracker]) -> None:
        """Send later records to these too."""
        self._trackers += trackers

    def log(self, record: Mapping[str, Value], category: Category) -> None:
        """Write ``record``, which must hold ``env_step``, to every place.

        Never raises for a disk or a tracker that fails; see ``RecordFile`` for what happens then.
        """
        assert category in ("train", "eval"), f"category {category!r} is not train or eval"
        assert "env_step" in record, f"a record needs env_step, got {sorted(record)}"
        assert "category" not in record, "the key category is taken"
        plain = {key: _plain(value) for key, value in record.items()}
        self._last[category] = plain
        self._metrics.append(_json_line(plain, category))
        if category == "eval":
            self._eval.append(",".join(_csv_cell(plain.get(key)) for key in EVAL_COLUMNS))
        logger.info(format_record(category, plain))
        step = int(plain["env_step"])
        self._each(lambda tracker: tracker.log(named(plain, category), category, step))

    def video(self, path: Path, env_step: int) -> None:
        """Show a video file in the trackers."""
        self._each(lambda tracker: tracker.video(path, env_step))

    def artifact(self, path: Path, name: str) -> None:
        """Hand a file to the trackers to keep."""
        self._each(lambda tracker: tracker.artifact(path, name))

    def summary(self, values: Mapping[str, Value]) -> None:
        """Set the numbers that stand for the whole run."""
        self._each(lambda tracker: tracker.summary(values))

    def close(self, exit_code: int = 0) -> None:
        """Write what is still in memory and close the trackers; 0 marks the run as finished."""
        self._metrics.close()
        self._eval.close()
        self._each(lambda tracker: tracker.close(exit_code))

    def state_dict(self) -> dict[str, int]:
        """Counts of records. Lengths in bytes would differ with each wall-clock value."""
        return {"metrics_records": self._metrics.records, "eval_records": self._eval.records}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Cut both files to the records that the checkpoint knows; warn where some are missing.

        Raises OSError if a file is there and cannot be read.
        """
        self._last = {}
        for line in self._metrics.truncate(state["metrics_records"]):
            # a line that the disk spoiled must not stop a resume
            with suppress(ValueError, KeyError, TypeError, AttributeError):
                record = json.loads(line)
                self._last[record.pop("category")] = record
        self._eval.truncate(state["eval_records"])

    def last_record_value(self, category: Category, key: str) -> Value | None:
        """``key`` in the last record of ``category``; None if there is none."""
        return self._last.get(category, {}).get(key)

    @property
    def next_env_step(self) -> int:
        """Records from this env step on are still to come; 0 if there is none yet."""
        return max((record["env_step"] + 1 for record in self._last.values()), default=0)

    def _each(self, send: Callable[[Tracker], None]) -> None:
        """``send`` to each tracker; one that fails is told in one line, and gets nothing more."""
        for tracker in list(self._trackers):
            try:
                send(tracker)
            except Exception as error:  # W&B and TensorBoard raise many kinds; none ends a run
                logger.warning(
                    f"{tracker.name} is off from here on: {describe(error)}; "
                    f"{self._metrics.path.name} has all records"
                )
                self._trackers.remove(tracker)


def _plain(value: Value) -> Value:
    """A Python number for a numpy or torch scalar."""
    item = getattr(value, "item", None)
    return item() if item is not None else value


def _json_line(record: Mapping[str, Value], category: str) -> str:
    bad = [k for k, v in record.items() if isinstance(v, float) and not math.isfinite(v)]
    fields: dict[str, object] = {"category": category, **record, **dict.fromkeys(bad)}
    if bad:
        fields["non_finite"] = bad
    return json.dumps(fields, allow_nan=False)


def _csv_cell(value: Value | None) -> str:
    if value is None:
        return ""
    return str(int(value)) if isinstance(value, bool) else str(value)
