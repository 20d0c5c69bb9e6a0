"""What the user sees while a run goes on: one live line on a terminal, plain lines elsewhere."""

import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from difftori.monitoring.progress import Progress, format_seconds

REFRESHES_PER_SECOND = 4


@runtime_checkable
class Stream(Protocol):
    """What is needed of ``sys.stdout``."""

    def write(self, text: str, /) -> int: ...
    def flush(self) -> None: ...
    def isatty(self) -> bool: ...
    def fileno(self) -> int: ...


class ConsoleReporter:
    """Log lines, and where the run stands.

    On a terminal a live line stays at the bottom, drawn by a thread, so it also moves while the
    caller computes; the log scrolls above it. Without a terminal, or on one that cannot move its
    cursor, there are plain lines only, with a progress line once nothing has been printed for
    ``progress_every_seconds``. A terminal or pipe that goes away never raises.
    """

    def __init__(
        self,
        stdout: Stream | None = None,
        stderr: Stream | None = None,
        *,
        progress_every_seconds: float | int = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._out = SafeStream(sys.stdout if stdout is None else stdout)
        self._err = SafeStream(sys.stderr if stderr is None else stderr)
        self._is_terminal = self._out.isatty() and os.environ.get("TERM", "dumb") not in (
            "dumb",
            "unknown",
            "",
        )
        self._progress_every_seconds = progress_every_seconds
        self._clock = clock
        self._progress = Progress(clock)
        self._last_line_at = clock()
        self._live: Live | None = None
        if self._is_terminal:
            self._rich = Console(
                file=self._out,  # type: ignore[arg-type]
                force_terminal=True,
                highlight=False,
                markup=False,
                emoji=False,
            )
            self._spinner = Spinner("line")

    def __enter__(self) -> "ConsoleReporter":
        if self._is_terminal:
            self._live = Live(
                console=self._rich,
                get_renderable=self._render,
                refresh_per_second=REFRESHES_PER_SECOND,
                transient=True,
            )
            self._live.start()
            # a hidden cursor would stay hidden if the process were killed
            self._rich.show_cursor(True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live is not None:
            live, self._live = self._live, None
            live.stop()

    def start(self, total: int, unit: str, done: int, elapsed_seconds: float | int = 0.0) -> None:
        """Begin the run: ``done`` of ``total`` ``unit`` are behind us, from an earlier process.

        ``elapsed_seconds`` is what earlier processes took; speed and time left leave it out.
        """
        self._progress.start(total, unit, done, elapsed_seconds)

    def advance(self, env_step: int) -> None:
        """The run has reached ``env_step``."""
        self._progress.advance(env_step)
        self._plain_progress()

    def phase(self, name: str, total: int | None = None) -> None:
        """Begin a part of the run, of ``total`` steps of its own if that is known."""
        self._progress.phase(name, total)
        self._plain_progress()

    def phase_step(self, n: int) -> None:
        """``n`` steps of the phase are done."""
        self._progress.phase_done = n
        self._plain_progress()

    def info(self, text: str) -> None:
        self._line(text)

    def warn(self, text: str) -> None:
        self._line(f"warning: {text}", style="yellow", to_stderr=True)

    def error(self, text: str) -> None:
        self._line(f"error: {text}", style="bold red", to_stderr=True)

    def episode_line(self, record: Mapping[str, Any]) -> None:
        """One training episode, in columns; fields that the record lacks are left out."""
        self._line(format_record("train", record))

    def eval_line(self, record: Mapping[str, Any]) -> None:
        """One evaluation, in columns."""
        self._line(format_record("eval", record), style="bold green")

    def _line(self, text: str, *, style: str = "", to_stderr: bool = False) -> None:
        self._last_line_at = self._clock()
        if self._is_terminal:
            self._rich.print(Text(text, style=style), soft_wrap=True)
        if to_stderr and not (self._is_terminal and self._err.isatty()):
            self._err.write(f"{text}\n")
            self._err.flush()
        elif not self._is_terminal:
            self._out.write(f"{text}\n")
            self._out.flush()

    def _plain_progress(self) -> None:
        if self._is_terminal:
            return
        if self._clock() - self._last_line_at >= self._progress_every_seconds:
            self._line("  ".join(["progress", *self._progress.parts().values()]))

    def _render(self) -> Group | Table:
        """The live line: as many of its parts as the width takes, the least needed go first."""
        parts = self._progress.parts()
        room = self._rich.width - 3
        for name in ("percent", "speed", "elapsed", "done"):
            if sum(len(part) + 2 for part in parts.values()) > room:
                parts.pop(name, None)
        room -= sum(len(part) + 2 for part in parts.values())
        grid = Table.grid(padding=(0, 2, 0, 0))
        cells: list[Any] = [self._spinner]
        cells += [Text(part, no_wrap=True, overflow="ellipsis") for part in parts.values()]
        if room >= 8 and self._progress.total > 0:
            fraction = self._progress.fraction
            cells.insert(2, ProgressBar(total=1.0, completed=fraction, width=min(room - 2, 30)))
        grid.add_row(*cells)
        return grid


class SafeStream:
    """A text stream whose reader may go away: nothing here raises, what cannot go out is lost."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    @property
    def encoding(self) -> str:
        return getattr(self._stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        try:
            return self._stream.isatty()
        except (OSError, ValueError):
            return False

    def fileno(self) -> int:
        return self._stream.fileno()

    def write(self, text: str) -> int:
        try:
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                plain = text.encode(self.encoding, errors="replace").decode(self.encoding)
                self._stream.write(plain)
        except (OSError, ValueError) as error:
            self._lost(error)
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            self._lost(error)

    def _lost(self, error: Exception) -> None:
        if not isinstance(error, BrokenPipeError):
            return
        # Python would try again at exit, fail, and turn success into exit code 120
        with suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)


COLUMNS = (
    ("episode", "episode ", "<5.0f"),
    ("env_step", "env_step ", "<10,.0f"),
    ("episode_reward", "reward ", "<8.1f"),
    ("episode_success", "success ", "<4.2f"),
    ("updates", "updates ", "<6.0f"),
    ("elapsed_seconds", "", "duration"),
)
"""key in the record, name on the console, how the number is written"""


def format_record(label: str, record: Mapping[str, Any]) -> str:
    """The console line of a record: names and values, in columns that stay in place."""
    cells = [f"{label:<5}"]
    for key, name, how in COLUMNS:
        value = record.get(key)
        if isinstance(value, int | float):
            cells.append(name + (format_seconds(value) if how == "duration" else f"{value:{how}}"))
    return "  ".join(cells).rstrip()
