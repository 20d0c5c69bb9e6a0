"""TensorBoard: a run's records in the run's own folder."""

import contextlib
import math
import os
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import yaml

FOLDER = "tensorboard"
"""below the run's"""


def start_tensorboard(
    *,
    folder: Path,
    config: Mapping[str, Any],
    elapsed_seconds: float,
    warn: Callable[[str], None],
) -> "TensorboardTracker | None":
    """TensorBoard for the run in ``folder``; None, after one warning, if it cannot be had.

    ``elapsed_seconds`` of training lie behind the run.
    """
    try:
        import torch.utils.tensorboard  # noqa: F401, says which package is missing
    except ImportError as error:
        warn(f"TensorBoard is off: {error}; install it with `pip install tensorboard`")
        return None
    try:
        return TensorboardTracker(folder / FOLDER, config, elapsed_seconds, warn)
    except Exception as error:  # of the disk or of the library: nothing worth a training run
        warn(f"TensorBoard is off: it cannot begin in {folder / FOLDER}: {error}")
        return None


class TensorboardTracker:
    """The event file of one process; those of the processes before it go.

    A resumed run hands over all its records, and what an earlier process had written may lie
    behind the checkpoint or have holes. So each process writes the whole run anew, and says so
    (``purge_step=0`` of a ``SummaryWriter``) to a TensorBoard that has read the files of before.
    Every record is on disk before the next one comes: there is no thread that could die unseen.
    """

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Any],
        elapsed_seconds: float,
        warn: Callable[[str], None],
    ) -> None:
        """Raises OSError if ``folder`` cannot be written."""
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._warn = warn
        # the time that a run was down is left out, as in its records
        self._began = time.time() - elapsed_seconds
        folder.mkdir(exist_ok=True)
        before = list(folder.glob("events.out.tfevents.*"))
        own = folder / _file_name()
        self._file: IO[bytes] | None = own.open("wb")
        self._writer = RecordWriter(self._file)
        try:
            self._begin(config)
        except BaseException:
            self._drop_file()
            own.unlink(missing_ok=True)
            raise
        for path in before:
            path.unlink(missing_ok=True)

    def log(self, record: Mapping[str, Any], step: int) -> None:
        elapsed = next((v for k, v in record.items() if k.endswith("/elapsed_seconds")), 0.0)
        self._add(record, step, self._began + elapsed)

    def summary(self, values: Mapping[str, Any]) -> None:
        """Not shown: TensorBoard has no place for it."""

    def video(self, path: Path, step: int) -> None:
        """Not shown: TensorBoard plays no mp4."""

    def artifact(self, path: Path, name: str) -> None:
        """Not kept: the file is in the run's folder."""

    def close(self, exit_code: int) -> None:
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except OSError as error:
                self._warn(f"TensorBoard lacks the last records: {error}")

    def _begin(self, config: Mapping[str, Any]) -> None:
        """What stands before the records; raises OSError."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        now = time.time()
        self._write(Event(wall_time=now, file_version="brain.Event:2"))
        purge = SessionLog(status=SessionLog.START)
        self._write(Event(wall_time=now, step=0, session_log=purge))
        text = yaml.safe_dump(dict(config), sort_keys=False)
        indented = "".join(f"    {line}\n" for line in text.splitlines())  # Markdown's code
        self._add_all({"config": indented}, 0, now)

    def _add(self, record: Mapping[str, Any], step: int, wall_time: float) -> None:
        if self._file is None:
            return
        try:
            self._add_all(record, step, wall_time)
        except Exception as error:  # nothing in here is worth a training run
            self._drop_file()
            self._warn(
                f"TensorBoard is off from here on: {error}; metrics.jsonl has all records, "
                "and a resumed run writes them here again"
            )

    def _drop_file(self) -> None:
        """Close the file; what the disk does not take is lost."""
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):
                file.close()

    def _add_all(self, record: Mapping[str, Any], step: int, wall_time: float) -> None:
        """One event with all that the record holds."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from torch.utils.tensorboard.summary import text

        values = []
        for tag, value in record.items():
            if isinstance(value, str):
                values += text(tag, value).value
            elif value is not None:
                values.append(Summary.Value(tag=tag, simple_value=_float32(value)))
        self._write(Event(wall_time=wall_time, step=step, summary=Summary(value=values)))

    def _write(self, event: Any) -> None:
        assert self._file is not None
        self._writer.write(event.SerializeToString())
        self._file.flush()


def _file_name() -> str:
    """As TensorBoard's own writers name them: it reads them in order of their names."""
    return f"events.out.tfevents.{time.time():017.6f}.{socket.gethostname()}.{os.getpid()}"


def _float32(value: float) -> float:
    """Protocol buffers refuse a number that is too large for float32."""
    number = float(value)
    if math.isfinite(number) and abs(number) > 3.4e38:
        return math.copysign(math.inf, number)
    return number
