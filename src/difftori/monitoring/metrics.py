"""Console, files and trackers behind one log call."""

import json
import math
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from difftori.checkpoints.files import eval_video_path
from difftori.monitoring.console import ConsoleReporter
from difftori.monitoring.trackers import Tracker, named

Value = float | int | str | bool
Category = Literal["train", "eval"]

EVAL_COLUMNS = ("env_step", "episode_reward", "episode_success")
PENDING_RECORDS = 10_000
"""records kept in memory while the disk refuses them; one record is about 500 bytes"""


class Metrics:
    """The one place that a record goes to: ``metrics.jsonl``, ``eval.csv``, console, trackers.

    The files are the truth; what a tracker shows is a copy of them. Fields that hold wall-clock
    values end in ``_seconds`` or ``_per_second``; all others repeat exactly after a resume.

    An existing run folder must be cut to its checkpoint with ``load_state_dict`` before the first
    ``log``; with zero counts if the run starts from nothing.
    """

    def __init__(
        self, folder: Path, *, console: ConsoleReporter, trackers: Sequence[Tracker] = ()
    ) -> None:
        self._console = console
        self._folder = folder
        self._trackers = tuple(trackers)
        self._metrics = RecordFile(folder / "metrics.jsonl", console)
        self._eval = RecordFile(folder / "eval.csv", console, header=",".join(EVAL_COLUMNS))

    def attach(self, trackers: Sequence[Tracker]) -> None:
        """Send later records to these too, and first the earlier ones, of which they may lack some.

        So a tracker catches up that was switched on late, failed, or lost its last rows to a kill.
        """
        self._trackers = (*self._trackers, *trackers)
        for record in self._records() if trackers else ():
            category, env_step = record.pop("category"), int(record["env_step"])
            for tracker in trackers:
                tracker.log(named(record, category), step=env_step)
            video = eval_video_path(self._folder, env_step)
            if category == "eval" and video.exists():
                for tracker in trackers:
                    tracker.video(video, step=env_step)

    def log(self, record: Mapping[str, Value], category: Category) -> None:
        """Write ``record``, which must hold ``env_step``, to every place.

        Never raises for a disk or a tracker that fails; see ``RecordFile`` for what happens then.
        """
        assert category in ("train", "eval"), f"category {category!r} is not train or eval"
        assert "env_step" in record, f"a record needs env_step, got {sorted(record)}"
        assert "category" not in record, "the key category is taken"
        plain = {key: _plain(value) for key, value in record.items()}
        self._metrics.append(_json_line(plain, category))
        if category == "eval":
            self._eval.append(",".join(_csv_cell(plain.get(key)) for key in EVAL_COLUMNS))
            self._console.eval_line(plain)
        else:
            self._console.episode_line(plain)
        for tracker in self._trackers:
            tracker.log(named(plain, category), step=int(plain["env_step"]))

    def video(self, path: Path, env_step: int) -> None:
        """Show a video file in the trackers."""
        for tracker in self._trackers:
            tracker.video(path, step=env_step)

    def artifact(self, path: Path, name: str) -> None:
        """Hand a file to the trackers to keep."""
        for tracker in self._trackers:
            tracker.artifact(path, name)

    def summary(self, values: Mapping[str, Value]) -> None:
        """Set the numbers that stand for the whole run."""
        for tracker in self._trackers:
            tracker.summary(values)

    def close(self, exit_code: int = 0) -> None:
        """Write what is still in memory and close the trackers (not the console)."""
        for file in (self._metrics, self._eval):
            file.flush()
            if file.pending:
                self._console.warn(f"{file.pending} records never reached {file.path}")
        for tracker in self._trackers:
            tracker.close(exit_code)

    def state_dict(self) -> dict[str, int]:
        """Counts of records. Lengths in bytes would differ with each wall-clock value."""
        return {"metrics_records": self._metrics.records, "eval_records": self._eval.records}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Cut both files to the records that the checkpoint knows; warn where some are missing."""
        self._metrics.truncate(state["metrics_records"])
        self._eval.truncate(state["eval_records"])

    def last_record_value(self, category: Category, key: str) -> Value | None:
        """The last value of ``key`` among the records of ``category``; None if there is none."""
        found: Value | None = None
        for record in self._records():
            if record["category"] == category and record.get(key) is not None:
                found = record[key]
        return found

    def _records(self) -> Iterator[dict[str, Any]]:
        """What was logged, NaN where a number was not finite."""
        for line in self._metrics.lines():
            # a line that the disk spoiled must not stop a resume
            with suppress(ValueError, AttributeError, TypeError):
                record = json.loads(line)
                record |= dict.fromkeys(record.pop("non_finite", ()), math.nan)
                if {"category", "env_step"} <= record.keys():
                    yield record


class RecordFile:
    """A text file of one record per line that survives a full or read-only disk and a kill.

    A record that cannot be written waits in memory (at most ``PENDING_RECORDS``, then the oldest
    go) and is written, in order, as soon as a later write works. A line that was written by half
    is cut off before anything follows it. ``console`` hears once of each kind of failure.
    """

    def __init__(self, path: Path, console: ConsoleReporter, header: str | None = None) -> None:
        self.path = path
        self.records = 0
        """whole records in the file and in memory, without the header"""
        self._console = console
        self._header = header
        self._waiting: deque[str] = deque()
        self._cut: int | None = None
        """bytes to keep before the next write, None if the file ends as it should"""
        self._warned: set[str] = set()
        ends = self._line_ends()
        if ends is not None:
            self.records = max(0, len(ends) - self._header_lines)
            self._cut_behind(ends[-1] if ends else 0)

    @property
    def pending(self) -> int:
        """Records that wait in memory."""
        return len(self._waiting)

    @property
    def _header_lines(self) -> int:
        return 0 if self._header is None else 1

    def append(self, line: str) -> None:
        """Write one record, after those that wait."""
        self._waiting.append(line)
        self.records += 1
        if len(self._waiting) > PENDING_RECORDS:
            self._waiting.popleft()
            self.records -= 1
            self._warn("full", f"{self.path}: more than {PENDING_RECORDS} records wait in memory; "
                       "the oldest are lost")  # fmt: skip
        self.flush()

    def flush(self) -> None:
        """Try to write the records that wait. An OSError is a warning and leaves them waiting."""
        if not self._waiting:
            return
        recovered = len(self._waiting) - 1
        try:
            # opened for each record: a file that was moved or remounted is found again, and other
            # machines see the record at once on a network disk
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                self._write_waiting(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            self._warn_failure("write", error)
            return
        if recovered > 0:
            self._console.info(f"{self.path} can be written again: {recovered} records caught up")

    def truncate(self, records: int) -> None:
        """Keep the first ``records`` records; warn and go on if there are fewer."""
        self._waiting.clear()
        ends = self._line_ends()
        if ends is None:
            self.records = records
            return
        found = max(0, len(ends) - self._header_lines)
        if found < records:
            self._console.warn(
                f"{self.path} holds {found} records, the checkpoint knows {records}: "
                "the missing ones are lost, the run goes on"
            )
        self.records = min(found, records)
        keep = min(self.records + self._header_lines, len(ends))
        self._cut_behind(ends[keep - 1] if keep else 0)

    def lines(self) -> Iterator[str]:
        """The records in the file, then those in memory."""
        try:
            text = self.path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            text = ""
        except OSError as error:
            self._warn_failure("read", error)
            text = ""
        yield from text.split("\n")[self._header_lines : -1]
        yield from self._waiting

    def _write_waiting(self, descriptor: int) -> None:
        if self._cut is not None:
            os.ftruncate(descriptor, self._cut)
            self._cut = None
        size = os.fstat(descriptor).st_size
        if size == 0 and self._header is not None:
            size = self._write_line(descriptor, self._header, size)
        while self._waiting:
            size = self._write_line(descriptor, self._waiting[0], size)
            self._waiting.popleft()

    def _write_line(self, descriptor: int, line: str, size: int) -> int:
        """Append one line to a file of ``size`` bytes, all of it or nothing; the new size."""
        data = f"{line}\n".encode()
        # set first, so that no exception, Ctrl-C included, leaves half a line behind
        self._cut = size
        written = 0
        while written < len(data):
            written += os.write(descriptor, data[written:])
        self._cut = None
        return size + written

    def _line_ends(self) -> list[int] | None:
        """Offsets behind each whole line, in bytes; None if the file cannot be read."""
        ends, end = [], 0
        try:
            with self.path.open("rb") as file:
                for line in file:
                    end += len(line)
                    if line.endswith(b"\n"):
                        ends.append(end)
        except FileNotFoundError:
            return []
        except OSError as error:
            self._warn_failure("read", error)
            return None
        return ends

    def _cut_behind(self, size: int) -> None:
        try:
            if self.path.stat().st_size > size:
                os.truncate(self.path, size)
        except FileNotFoundError:
            pass
        except OSError as error:
            self._cut = size
            self._warn_failure("cut", error)

    def _warn_failure(self, action: str, error: OSError) -> None:
        self._warn(
            f"{action} {error.errno}",
            f"cannot {action} {self.path}: {error.strerror or error}; training goes on, "
            "new records wait in memory until it works again",
        )

    def _warn(self, kind: str, text: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            self._console.warn(text)


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
