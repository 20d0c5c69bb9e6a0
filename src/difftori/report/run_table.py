"""The table of ``status.py``: folded to fit a terminal, whole lines elsewhere."""

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from difftori.monitoring.console import format_seconds
from difftori.report.run_state import RunState, State

STYLES: dict[State, str] = {
    "running": "cyan",
    "waiting": "dim",
    "stopped": "yellow",
    "failed": "bold red",
    "done": "green",
}


def show(runs: Sequence[RunState], place: Path) -> None:
    """Print the table of the runs in ``place``, and below it how many there are of each state."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("run", overflow="fold")
    table.add_column("state", no_wrap=True)
    for name in ("env steps", "return", "left"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("why", overflow="fold")
    for run in runs:
        table.add_row(
            Text(str(run.folder.relative_to(place))),
            Text(run.state, style=STYLES[run.state]),
            f"{run.env_step:,}" + (f"/{run.train_steps:,}" if run.train_steps else ""),
            "" if run.last_return is None else f"{run.last_return:.4g}",
            "" if run.left_seconds is None else format_seconds(run.left_seconds),
            Text(run.reason),
        )
    width = None if sys.stdout.isatty() else 1000
    Console(highlight=False, width=width).print(table)
    counts = Counter(run.state for run in runs)
    print("runs: " + ", ".join(f"{counts[state]} {state}" for state in STYLES if counts[state]))
