"""The table of ``status.py``: folded to fit a terminal, whole lines elsewhere."""

import sys
from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from difftori.monitoring.console import format_seconds
from difftori.report.run_state import STATES, RunState

_STYLES = {
    "running": "cyan",
    "waiting": "dim",
    "stopped": "yellow",
    "failed": "bold red",
    "done": "green",
}
_NUMBERS = {"seed", "env steps", "%", "return", "took", "left"}
_USUAL = {"modality": "state", "experiment": "default", "left": "", "why": ""}
"""what a column says that is left out"""


def show(runs: Sequence[RunState]) -> None:
    """Print the table, and below it how many runs there are of each state."""
    rows = [_cells(run) for run in runs]
    table = Table(box=None, pad_edge=False, header_style="bold")
    names = [name for name in rows[0] if any(row[name] != _USUAL.get(name) for row in rows)]
    for name in names:
        number = name in _NUMBERS
        table.add_column(
            name,
            justify="right" if number else "left",
            no_wrap=number or name == "state",
            overflow="fold",
        )
    for row in rows:
        styles = {"state": _STYLES[row["state"]]}
        table.add_row(*(Text(row[name], style=styles.get(name, "")) for name in names))
    width = None if sys.stdout.isatty() else 1000
    Console(highlight=False, width=width).print(table)
    counts = Counter(run.state for run in runs)
    states = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    print(f"{len(runs)} run{'' if len(runs) == 1 else 's'}: {states}")


def _cells(run: RunState) -> dict[str, str]:
    total = "?" if run.train_steps is None else f"{run.train_steps:,}"
    return {
        "task": str(run.key["task"]),
        "modality": str(run.key["modality"]),
        "mode": str(run.key["mode"]),
        "experiment": str(run.key["exp_name"]),
        "seed": str(run.key["seed"]),
        "state": run.state,
        "env steps": f"{run.env_step:,}/{total}",
        "%": "" if run.percent is None else f"{run.percent:.0f}",
        "return": "" if run.last_return is None else f"{run.last_return:.1f}",
        "took": "" if run.elapsed_seconds is None else format_seconds(run.elapsed_seconds),
        "left": "" if run.left_seconds is None else format_seconds(run.left_seconds),
        "why": run.reason,
    }
