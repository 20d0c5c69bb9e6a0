"""A text file of one record per line, which a full disk or a kill leaves whole."""

import logging
import os
from pathlib import Path

logger = logging.getLogger(__name__)


class RecordFile:
    """Appends lines; when a run resumes, the file is cut to the checkpoint's number of records.

    Lines that the disk refuses wait in memory and are written, in order, as soon as a later write
    works. There is one warning for each time that the disk refuses.
    """

    def __init__(self, path: Path, header: str | None = None) -> None:
        """A file that is there must be cut with ``truncate`` before the first ``append``."""
        self.path = path
        self.records = 0
        """in the file and in memory, without the header"""
        self._header_lines = [] if header is None else [f"{header}\n".encode()]
        self._size = 0
        """bytes of whole lines; what lies behind them was written by half, and goes"""
        self._waiting: list[bytes] = []
        self._refused = False

    def append(self, line: str) -> None:
        """Write one record, after those that wait."""
        self._waiting.append(f"{line}\n".encode())
        self.records += 1
        self._write()

    def truncate(self, records: int) -> list[str]:
        """Keep the first ``records`` records, and return them; a warning if there are fewer.

        Raises OSError if the file is there and cannot be read.
        """
        lines: list[bytes] = []
        if self.path.exists():
            with self.path.open("rb") as file:
                lines = [line for line in file if line.endswith(b"\n")]
        first = len(self._header_lines)
        kept = lines[first : first + records]
        if len(kept) < records:
            logger.warning(
                f"{self.path} holds {len(kept)} records, the checkpoint knows {records}: "
                "the missing ones are lost, the run goes on"
            )
        self.records = len(kept)
        self._size = sum(map(len, lines[:first] + kept))
        self._waiting.clear()
        if self.path.exists():
            self._write()
        return [line.decode(errors="replace") for line in kept]

    def close(self) -> None:
        """Try once more to write the lines that wait; a warning if some are lost."""
        if self._waiting:
            self._write()
        if self._waiting:
            logger.warning(f"{len(self._waiting)} records never reached {self.path}")

    def _write(self) -> None:
        """Cut the file to its whole lines, and write those that wait. Never raises OSError."""
        try:
            # opened each time, so that a file that was moved or remounted is found again
            with self.path.open("ab") as file:
                size = min(self._size, file.seek(0, os.SEEK_END))
                file.truncate(size)
                data = b"".join([*(self._header_lines if size == 0 else []), *self._waiting])
                file.write(data)
        except OSError as error:
            if not self._refused:
                logger.warning(
                    f"cannot write {self.path}: {error.strerror or error}; training goes on, "
                    "new records wait in memory until it works again"
                )
            self._refused = True
            return
        self._size = size + len(data)
        self._waiting.clear()
        if self._refused:
            logger.info(f"{self.path} can be written again, and has all records")
        self._refused = False
