"""The pictures: learning curves in small multiples, their aggregate, performance profiles."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from difftori.report.comparison import Comparison
from difftori.report.statistics import Metric

# Okabe and Ito's colours and, for what others published, Tol's muted ones: both can be told apart
# by people with colour vision deficiencies.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MUTED = ("#882255", "#117733", "#332288", "#999933", "#AA4499", "#44AA99", "#CC6677", "#6F6F6F")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "*")
DASHES: tuple[Any, ...] = ("-", (0, (6, 1.2)), (0, (4, 1, 1, 1)))
LABEL_POINTS = 7.5
STYLE: dict[Any, object] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so pictures are the same everywhere
    "font.size": 7,
    "axes.titlesize": 7.5,
    "axes.labelsize": LABEL_POINTS,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.5,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "pdf.fonttype": 42,  # text stays text
    "savefig.dpi": 300,
}
DOTTED: dict[str, Any] = {"linestyle": (0, (1, 1.2)), "linewidth": 1.0}
PARTIAL = "some seeds only"
LEGEND_LINE_INCHES = 0.145


def draw_curves(
    comparison: Comparison,
    table: pd.DataFrame,
    published: pd.DataFrame,
    *,
    metric: Metric,
    end: int,
    free_y: bool = False,
) -> Figure:
    """One panel for each task.

    Args:
        table: ``tables.curves``.
        published: ``published.read_published``, of this modality.
        end: last env step of the axes.
        free_y: each axis ends at the largest value that is drawn.
    """
    tasks = comparison.tasks
    figure, panels = _grid(len(tasks))
    published = published[published["env_step"] <= end]
    names = list(dict.fromkeys(published.loc[published["task"].isin(tasks), "method"]))
    seeds = comparison.scores.groupby(["method", "task"])["seed"].nunique()
    labels = [f"{method} ({_counted(seeds[method], 'seed')})" for method in comparison.methods]
    for axes, task in zip(panels, tasks, strict=True):
        axes.set_title(task)
        for index, method in enumerate(comparison.methods):
            rows = table[(table["task"] == task) & (table["method"] == method)]
            if len(rows):
                _line(axes, rows, index, labels[index])
        theirs = published[published["task"] == task]
        for index, name in enumerate(names):
            rows = theirs[theirs["method"] == name]
            _published_line(axes, rows["env_step"], rows["mean"], index, name)
            if len(names) == 1:
                low, high = rows["mean"] - rows["std"], rows["mean"] + rows["std"]
                axes.fill_between(rows["env_step"], low, high, color=MUTED[index], alpha=0.12)
        _steps_axis(axes, end, small=len(tasks) > 2)
        maximum = comparison.maxima[task]
        if free_y or maximum is None or theirs["mean"].max() > 1.03 * maximum:
            axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
            axes.yaxis.set_major_locator(MaxNLocator(4))
        else:
            axes.set_ylim(-0.03 * maximum, 1.03 * maximum)
            axes.set_yticks(np.linspace(0, 1, 3 if len(tasks) > 2 else 5) * maximum)
    figure.supxlabel("Environment steps", fontsize=LABEL_POINTS)
    figure.supylabel(comparison.score_name + _how(metric, table), fontsize=LABEL_POINTS)
    _legend(figure, panels, [*labels, *names, PARTIAL])
    return figure


def draw_aggregate(
    comparison: Comparison, table: pd.DataFrame, *, metric: Metric, end: int
) -> Figure:
    """One panel: ``tables.aggregates``."""
    figure, (axes,) = _grid(1)
    table = table[table["env_step"] <= end]
    labels = []
    published = 0
    for method, rows in table.groupby("method", sort=False):
        if rows["n_runs"].any():
            labels.append(f"{method} ({_counted(rows['n_runs'], 'run')})")
            _line(axes, rows, comparison.methods.index(method), labels[-1])
        else:
            labels.append(f"{method} (mean)" if metric != "mean" else method)
            _published_line(axes, rows["env_step"], rows["value"], published, labels[-1])
            published += 1
    axes.set_title(f"{table['n_tasks'].max()} tasks")
    _steps_axis(axes, end)
    top = max(1.0, table["value"].max())
    axes.set_ylim(-0.03 * top, 1.03 * top)
    axes.set_xlabel("Environment steps")
    axes.set_ylabel(_normalized_label(comparison) + _how(metric, table))
    _legend(figure, [axes], labels)
    return figure


def draw_profiles(comparison: Comparison, table: pd.DataFrame) -> Figure:
    """One panel: ``tables.profiles``."""
    figure, (axes,) = _grid(1)
    labels = []
    for method, rows in table.groupby("method", sort=False):
        labels.append(f"{method} ({_counted(rows['n_runs'], 'run')})")
        index = comparison.methods.index(method)
        _line(axes, rows, index, labels[-1], x="threshold", stairs=True)
    tasks, step = table["n_tasks"].iloc[0], table["env_step"].iloc[0]
    axes.set_title(f"{tasks} task{'' if tasks == 1 else 's'}, {step:,} env steps")
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel(f"{_normalized_label(comparison)}, τ")
    axes.set_ylabel("Share of runs above τ (95% CI)")
    _legend(figure, [axes], labels)
    return figure


def save(figure: Figure, stem: Path) -> list[Path]:
    """``stem`` with ``.png`` and ``.pdf``; raises OSError."""
    paths = [stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}.pdf")]
    figure.savefig(paths[0])
    figure.set_layout_engine("none")  # is done, and takes seconds with many panels
    # without a date, the same data gives the same file
    figure.savefig(paths[1], metadata={"CreationDate": None})
    return paths


def _grid(count: int) -> tuple[Figure, list[Axes]]:
    """A figure with ``count`` panels, as wide as a column for one, as a page for three or more."""
    mpl.rcParams.update(STYLE)
    rows = math.ceil(count / 4)
    columns = math.ceil(count / rows)
    width = {1: 3.4, 2: 5.2}.get(columns, 7.0)
    height = {1: 2.2, 2: 2.0, 3: 1.75, 4: 1.4}[columns]
    figure = Figure(figsize=(width, rows * height + 0.45), layout="constrained")
    return figure, [figure.add_subplot(rows, columns, index + 1) for index in range(count)]


def _line(
    axes: Axes,
    rows: pd.DataFrame,
    index: int,
    label: str,
    *,
    x: str = "env_step",
    stairs: bool = False,
) -> None:
    """``value`` and its interval; dotted where some seeds have no value.

    A single interval would have no width as a band: it is an error bar.
    """
    colour = COLOURS[index % len(COLOURS)]
    dash = DASHES[index // len(COLOURS) % len(DASHES)]
    complete = rows["all_seeds"] if "all_seeds" in rows else pd.Series(True, rows.index)
    whole, known = rows[complete], rows[rows["ci_low"].notna()]
    axes.plot(
        whole[x], whole["value"], color=colour, linestyle=dash, zorder=3, label=label,
        marker="o" if len(whole) == 1 else None, markersize=3,
        drawstyle="steps-post" if stairs else "default",
    )  # fmt: skip
    if len(known) == 1:
        errors = [known["value"] - known["ci_low"], known["ci_high"] - known["value"]]
        # of bars at the same step, no cap hides another
        cap = max(2.0, 5.0 - index)
        axes.errorbar(
            known[x], known["value"], yerr=errors, color=colour, capsize=cap, linewidth=1, zorder=2
        )
    elif len(known):
        axes.fill_between(
            known[x], known["ci_low"], known["ci_high"], color=colour, alpha=0.2, linewidth=0,
            step="post" if stairs else None,
        )  # fmt: skip
    if not complete.all():
        partial = ~complete
        joined = partial | partial.shift(1, fill_value=False) | partial.shift(-1, fill_value=False)
        axes.plot(rows[x], rows["value"].where(joined), color=colour, zorder=2.5, **DOTTED)
        axes.plot([], [], color="#555555", label=PARTIAL, **DOTTED)


def _published_line(axes: Axes, steps: pd.Series, means: pd.Series, index: int, name: str) -> None:
    axes.plot(
        steps, means, color=MUTED[index % len(MUTED)], linestyle=(0, (4, 1.5)),
        marker=MARKERS[index % len(MARKERS)], linewidth=0.8, markersize=2.4, label=name, zorder=2,
    )  # fmt: skip


def _how(metric: Metric, table: pd.DataFrame) -> str:
    """What line and band are, for the label of an axis; nothing for single runs."""
    if table["ci_low"].isna().all():
        return ""
    return f" ({'mean' if metric == 'mean' else 'IQM'}, 95% CI)"


def _counted(counts: pd.Series, noun: str) -> str:
    """``1 seed``, ``3–5 seeds``."""
    text = "–".join(str(count) for count in sorted({counts.min(), counts.max()}))
    return f"{text} {noun}{'' if text == '1' else 's'}"


def _normalized_label(comparison: Comparison) -> str:
    """What an axis of scores between 0 and 1 shows."""
    if comparison.score_name == "Success rate":
        return comparison.score_name
    maxima = set(comparison.maxima.values())
    return f"Return / {maxima.pop():g}" if len(maxima) == 1 else "Return / the largest possible"


def _steps_axis(axes: Axes, end: int, *, small: bool = False) -> None:
    axes.set_xlim(0, 1.02 * end)  # room for half a marker
    locator = MaxNLocator(2 if small else 5, steps=[1, 2, 2.5, 5, 10])
    axes.set_xticks([tick for tick in locator.tick_values(0, end) if tick <= end])
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def _legend(figure: Figure, panels: Sequence[Axes], order: Sequence[str]) -> None:
    """Above everything, so that it covers nothing; each name once."""
    found: dict[str, Artist] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    names = [name for name in order if name in found]
    handles = [found[name] for name in names]
    room = 0.98 * figure.get_figwidth() * figure.dpi
    renderer = FigureCanvasAgg(figure).get_renderer()
    height = figure.get_figheight()
    for columns in range(min(len(names), 6), 0, -1):
        legend = figure.legend(handles, names, loc="outside upper center", ncols=columns)
        if columns == 1 or legend.get_window_extent(renderer).width <= room:
            # lines of the legend make the figure taller, not its panels lower
            figure.set_figheight(height + LEGEND_LINE_INCHES * math.ceil(len(names) / columns))
            return
        legend.remove()
