"""The table of ``status.py``: drawn on a terminal, plain columns elsewhere."""

import os
import sys
from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from difftori.monitoring.progress import format_seconds
from difftori.report.progress import STATES, RunProgress

_STYLES = {
    "running": "cyan",
    "waiting": "dim",
    "stopped": "yellow",
    "failed": "bold red",
    "done": "green",
}
_RIGHT = {"seed", "env steps", "%", "return", "took", "left"}
_FOLDED = {"task", "mode", "experiment", "why"}
_ALWAYS = {"task", "mode", "seed", "state"}
"""columns that are shown even if they hold nothing, or the same in each row"""


def show(runs: Sequence[RunProgress]) -> None:
    """Print the table, and below it how many runs there are of each state."""
    header, rows = columns(runs)
    if sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        _draw(header, rows)
    else:
        print("\n".join(plain(header, rows)))
    print(totals(runs))


def columns(runs: Sequence[RunProgress]) -> tuple[list[str], list[list[str]]]:
    """Names of the columns, and a row for each run; a column that says nothing is left out."""
    records = [_cells(run) for run in runs]
    header = []
    for name in records[0]:
        values = {record[name] for record in records}
        usual = {"modality": "state", "experiment": "default"}.get(name, "")
        if name in _ALWAYS or values != {usual}:
            header.append(name)
    return header, [[record[name] for name in header] for record in records]


def plain(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Aligned lines without colours or borders, never cut."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = []
    for row in (header, *rows):
        cells = [
            cell.rjust(width) if name in _RIGHT else cell.ljust(width)
            for name, cell, width in zip(header, row, widths, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def totals(runs: Sequence[RunProgress]) -> str:
    """``8 runs: 2 running, 6 done``."""
    counts = Counter(run.state for run in runs)
    states = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    return f"{len(runs)} run{'' if len(runs) == 1 else 's'}: {states}"


def _draw(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, *cells in zip(header, *rows, strict=True):
        # on a narrow terminal names are folded, numbers never cut
        table.add_column(
            name,
            justify="right" if name in _RIGHT else "left",
            min_width=None if name in _FOLDED else max(map(len, [name, *cells])),
            overflow="fold",
        )
    for row in rows:
        style = _STYLES[row[header.index("state")]]
        table.add_row(
            *(
                Text(cell, style=style if name == "state" else "")
                for name, cell in zip(header, row, strict=True)
            )
        )
    Console(highlight=False).print(table)


def _cells(run: RunProgress) -> dict[str, str]:
    key = {name: str(run.key.get(name, "?")) for name in ("task", "modality", "mode", "seed")}
    total = "?" if run.train_steps is None else f"{run.train_steps:,}"
    return {
        "task": key["task"],
        "modality": key["modality"],
        "mode": key["mode"],
        "experiment": str(run.key.get("exp_name", "?")),
        "seed": key["seed"],
        "state": run.state,
        "env steps": f"{run.env_step:,}/{total}",
        "%": "" if run.percent is None else f"{run.percent:.0f}",
        "return": "" if run.last_return is None else f"{run.last_return:.1f}",
        "took": "" if run.elapsed_seconds is None else format_seconds(run.elapsed_seconds),
        "left": "" if run.left_seconds is None else format_seconds(run.left_seconds),
        "why": run.reason,
    }
