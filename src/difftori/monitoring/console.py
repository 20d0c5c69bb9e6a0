"""What the user sees while a run goes on: log lines and, on a terminal, a progress bar."""

import logging
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import rich.console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

PACE_SECONDS = 3600.0
"""the latest ones, from whose pace the time left is estimated"""
STYLES = {logging.WARNING: "yellow", logging.ERROR: "bold red"}
PREFIXES = {logging.WARNING: "warning: ", logging.ERROR: "error: "}


class Console(logging.Handler):
    """Prints the lines of the logger ``difftori``, and shows how far a run is.

    Within this context, info lines go to stdout, warnings and errors to stderr. On a terminal a
    progress bar stays below the lines. Elsewhere there are plain lines only. An output that goes
    away or is full never ends a run.
    """

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._out, self._err = _Stream(), _Stream(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            speed_estimate_period=PACE_SECONDS,
            console=self._out,
            transient=True,
            disable=not self._out.is_terminal,
        )
        self._run = self._bar.add_task("run", visible=False, total=None, unit="")
        self._phase = self._bar.add_task("starting", total=None, unit="")

    def __enter__(self) -> "Console":
        logger = logging.getLogger("difftori")
        logger.addHandler(self)
        logger.setLevel(logging.INFO)
        logger.propagate = False
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(OSError, ValueError):  # the terminal has been closed
            self._bar.stop()
        logger = logging.getLogger("difftori")
        logger.removeHandler(self)
        logger.setLevel(logging.NOTSET)
        logger.propagate = True

    # ---- progress

    def start(self, total: int, unit: str, done: int) -> None:
        """Begin the run: ``done`` of ``total`` ``unit`` are behind us, from an earlier process."""
        self._bar.reset(self._run, total=total, completed=done, visible=True, unit=unit)

    def advance(self, done: int) -> None:
        """The run has come to ``done``."""
        self._bar.update(self._run, completed=done)

    def phase(self, name: str, total: int | None = None) -> None:
        """Begin a part of the run, of ``total`` steps of its own if that is known."""
        self._bar.remove_task(self._phase)  # reset() would keep a total that is not known now
        self._phase = self._bar.add_task(name, total=total, unit="")

    def phase_step(self, done: int) -> None:
        """``done`` steps of the phase are done."""
        self._bar.update(self._phase, completed=done)

    # ---- lines

    def emit(self, record: logging.LogRecord) -> None:
        """Print a line; what cannot go out is lost."""
        level = record.levelno
        text = Text(PREFIXES.get(level, "") + record.getMessage(), style=STYLES.get(level, ""))
        # one terminal shows both streams, and only its own console keeps lines off the bar
        both = self._out.is_terminal and self._err.is_terminal
        to_stderr = level >= logging.WARNING and not both
        with suppress(OSError, ValueError):  # the disk behind it is full, or it is closed
            (self._err if to_stderr else self._out).print(text, soft_wrap=True, highlight=False)


class _Stream(rich.console.Console):
    def __exit__(self, *error: Any) -> None:
        """Write what was collected; the disk behind it may be full, or it may be closed."""
        with suppress(OSError, ValueError):
            super().__exit__(*error)

    def on_broken_pipe(self) -> None:
        """The reader has gone: the run goes on, and Python's last flush finds somewhere to go."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


COLUMNS = (
    ("episode", "episode ", "<5.0f"),
    ("env_step", "env_step ", "<10,.0f"),
    ("episode_reward", "reward ", "<8.4g"),
    ("episode_success", "success ", "<4.2f"),
    ("updates", "updates ", "<6.0f"),
    ("elapsed_seconds", "", "duration"),
)
"""key in the record, name on the console, how the number is written"""


def format_record(category: str, record: Mapping[str, Any]) -> str:
    """The console line of a record: names and values, in columns that stay in place."""
    cells = [f"{category:<5}"]
    for key, name, how in COLUMNS:
        value = record.get(key)
        if isinstance(value, int | float):
            cells.append(name + (format_seconds(value) if how == "duration" else f"{value:{how}}"))
    return "  ".join(cells).rstrip()


def format_seconds(seconds: float | int) -> str:
    """``3m12s``, ``4h02m``, ``2d03h``: two units, the second of fixed width."""
    if not math.isfinite(seconds):
        return "?"
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"
