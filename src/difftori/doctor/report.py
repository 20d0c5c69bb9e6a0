"""The report: a line for each thing looked at."""

import os
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

Verdict = Literal["ok", "note", "fix"]
COLOURS = {"ok": "green", "note": "yellow", "fix": "bold red"}
NAME_WIDTH = 14


@dataclass(frozen=True)
class Finding:
    verdict: Verdict
    """``ok``; ``note``: the run works without; ``fix``: the run needs it"""
    text: str
    remedy: str = ""
    """one short instruction"""


class Report:
    """Prints each finding as it comes: in colours on a terminal, plain elsewhere."""

    def __init__(self) -> None:
        self.fixes = 0
        self._console = _rich_console()
        self._status: Any = None

    def add(self, name: str, finding: Finding) -> None:
        self.fixes += finding.verdict == "fix"
        text = finding.text + (f" → {finding.remedy}" if finding.remedy else "")
        head = f"{finding.verdict:<5} {name:<{NAME_WIDTH}} "
        if self._console is None:
            _print(head + text)
            return
        from rich.text import Text

        width = max(30, self._console.width - len(head))
        first, *more = textwrap.wrap(text, width) or [""]
        line = Text(head, style=COLOURS[finding.verdict]).append(first, style="default")
        for part in more:
            line.append("\n" + " " * len(head) + part, style="default")
        self._console.print(line)

    def check(self, name: str, look: Callable[[], Finding | list[Finding]]) -> None:
        """Add what ``look`` finds; whatever it raises is a finding too."""
        with self._busy(name):
            try:
                found = look()
            except Exception as error:  # a broken package may raise anything
                # most likely what was found before: one thing to fix is counted once
                verdict: Verdict = "note" if self.fixes else "fix"
                found = Finding(verdict, f"cannot be checked: {sentence(error)}")
        for finding in found if isinstance(found, list) else [found]:
            self.add(name, finding)

    def progress(self, text: str) -> None:
        """Say what a check is at; in the live line of a terminal only."""
        if self._status is not None:
            self._status.update(f"looking at {text}")

    @contextmanager
    def _busy(self, name: str) -> Iterator[None]:
        if self._console is None:
            yield
        else:
            with self._console.status(f"looking at {name}") as self._status:
                yield
            self._status = None


def sentence(error: BaseException) -> str:
    """The error in one line."""
    lines = str(error).strip().splitlines()
    text = lines[0] if lines else ""
    return f"{type(error).__name__}: {text}"[:160] if text else type(error).__name__


def _rich_console() -> Any:
    """None if the output is no terminal, or rich cannot be used."""
    if not sys.stdout.isatty() or os.environ.get("TERM", "dumb") in ("dumb", "unknown", ""):
        return None
    try:
        from rich.console import Console
    except Exception:  # a broken package may raise anything
        return None
    return Console(highlight=False, markup=False, emoji=False)


def _print(line: str) -> None:
    try:
        print(line, flush=True)
    except UnicodeEncodeError:
        print(line.replace("→", "->").encode("ascii", "replace").decode(), flush=True)
