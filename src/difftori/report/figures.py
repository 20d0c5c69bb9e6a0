"""The pictures: learning curves in small multiples, their aggregate, performance profiles."""

import math
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from difftori.report.comparison import Comparison
from difftori.report.statistics import Metric

COLOURS = mpl.color_sequences["petroff10"]
"""can be told apart by people with colour vision deficiencies"""
LINES = ("-", "-.", ":")
"""the next one where all colours are taken"""
MARKERS = "osD^vPX"
STYLE: dict[Any, object] = {
    "font.size": 7,
    "axes.titlesize": 7.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "lines.markersize": 2.4,
    "pdf.fonttype": 42,  # text stays text
    "savefig.dpi": 300,
}
LETTERS_PER_INCH = 16
LEGEND_LINE_INCHES = 0.145


def draw_curves(comparison: Comparison, table: pd.DataFrame, metric: Metric) -> Figure:
    """One panel for each task; ``table`` is ``tables.curves``."""
    figure, panels = _grid(len(comparison.tasks))
    for axes, task in zip(panels, comparison.tasks, strict=True):
        axes.set_title(task)
        _draw(axes, comparison, table[table["task"] == task], top=comparison.maximum or 0.0)
    figure.supxlabel("Environment steps", fontsize=7)
    figure.supylabel(comparison.score_name + _how(table, metric), fontsize=7)
    _add_legend(figure)
    return figure


def draw_aggregate(comparison: Comparison, table: pd.DataFrame, metric: Metric) -> Figure:
    """One panel; ``table`` is ``tables.aggregates``."""
    figure, (axes,) = _grid(1)
    axes.set_title(f"{table['n_tasks'].iloc[0]} tasks")
    _draw(axes, comparison, table, top=1.0)
    axes.set_xlabel("Environment steps")
    axes.set_ylabel(_normalized_label(comparison) + _how(table, metric))
    _add_legend(figure)
    return figure


def draw_profiles(comparison: Comparison, table: pd.DataFrame) -> Figure:
    """One panel; ``table`` is ``tables.profiles``."""
    figure, (axes,) = _grid(1)
    axes.set_title(f"tasks: {table['n_tasks'].iloc[0]}, env steps: {table['env_step'].iloc[0]:,}")
    _draw(axes, comparison, table, top=1.0, x="threshold")
    axes.set_xlabel(f"{_normalized_label(comparison)}, τ")
    axes.set_ylabel("Share of runs above τ (95% CI)")
    _add_legend(figure)
    return figure


def save(figure: Figure, stem: Path) -> list[Path]:
    """``stem`` with ``.png`` and ``.pdf``; raises OSError."""
    png, pdf = (stem.with_name(f"{stem.name}.{kind}") for kind in ("png", "pdf"))
    figure.savefig(png)
    figure.savefig(pdf, metadata={"CreationDate": None})  # so the same data gives the same file
    return [png, pdf]


def _grid(count: int) -> tuple[Figure, list[Axes]]:
    """A figure with ``count`` panels, as wide as a column for one, as a page for three or more."""
    mpl.rcParams.update(STYLE)
    rows = math.ceil(count / 4)
    columns = math.ceil(count / rows)
    width = {1: 3.4, 2: 5.2}.get(columns, 7.0)
    figure = Figure(figsize=(width, rows * (1.4 + 0.8 / columns) + 0.45), layout="constrained")
    return figure, [figure.add_subplot(rows, columns, index + 1) for index in range(count)]


def _draw(
    axes: Axes, comparison: Comparison, table: pd.DataFrame, *, top: float, x: str = "env_step"
) -> None:
    """Each method's ``value`` over ``x`` and its interval; what is published is dashed.

    A line is thin where some of its seeds have no value.

    Args:
        top: the least that the vertical axis shows above 0.
    """
    seeds = comparison.scores.groupby(["task", "method"])["seed"].nunique()
    for index, method in enumerate(comparison.all_methods):
        rows = table[table["method"] == method]
        if rows.empty:
            continue
        colour, label = COLOURS[index % len(COLOURS)], method
        ours = method in comparison.methods
        line = LINES[index // len(COLOURS) % len(LINES)] if ours else "--"
        if ours and "n_runs" in rows:  # over tasks
            label += f" ({rows['n_runs'].iloc[0]} runs)"
        elif ours:
            counts = seeds.xs(method, level="method")
            few, most = counts.min(), counts.max()
            label += f" ({few} to {most} seeds)" if few < most else f" (seeds: {most})"
        marker = MARKERS[index % len(MARKERS)] if len(rows) == 1 or not ours else None
        axes.plot(
            rows[x], rows["value"], color=colour, label=None if ours else label,
            linestyle=line, linewidth=0.8, marker=marker,
        )  # fmt: skip
        if ours:
            n_seeds = rows.get("n_seeds", pd.Series(1, rows.index))
            whole = rows["value"].where(n_seeds == n_seeds.max())
            axes.plot(
                rows[x], whole, color=colour, label=label,
                linestyle=line, linewidth=1.4, marker=marker,
            )  # fmt: skip
        axes.fill_between(
            rows[x], rows["ci_low"], rows["ci_high"], color=colour, alpha=0.2, linewidth=0
        )
    shown = table[["value", "ci_low", "ci_high"]]
    top, bottom = max(top, shown.max(axis=None)), min(0.0, shown.min(axis=None))
    room = 0.03 * (top - bottom)  # for a line that stays at the top or at the bottom
    axes.set_ylim(bottom - room, top + room)
    if x == "env_step":
        axes.set_xlim(0, 1.02 * comparison.scores["env_step"].max())
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def _how(table: pd.DataFrame, metric: Metric) -> str:
    """What line and band are, for the label of an axis; nothing for single runs."""
    if table["ci_low"].isna().all():
        return ""
    return f" ({'mean' if metric == 'mean' else 'IQM'}, 95% CI)"


def _normalized_label(comparison: Comparison) -> str:
    """What an axis of scores between 0 and 1 shows."""
    maximum = comparison.maximum
    return comparison.score_name + ("" if maximum == 1 else f" / {maximum:g}")


def _add_legend(figure: Figure) -> None:
    """Above everything, so that it covers nothing; each name once."""
    handles: dict[str, Artist] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    width, height = figure.get_size_inches()
    longest = max(map(len, handles)) + 9  # with the line before it
    columns = max(1, int(width * LETTERS_PER_INCH / longest))
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=columns)
    # lines of the legend make the figure taller, not its panels lower
    figure.set_figheight(height + LEGEND_LINE_INCHES * math.ceil(len(handles) / columns))
