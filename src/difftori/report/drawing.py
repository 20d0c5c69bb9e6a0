"""The pictures: learning curves in small multiples, their aggregate, performance profiles."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from difftori.report.analysis import THRESHOLDS, Aggregate, CellCurve, Profiles
from difftori.report.checks import beyond_maximum
from difftori.report.curves import Steps, format_steps
from difftori.report.published import PublishedCurve, PublishedKey, drawn_until
from difftori.report.sheets import Cell, Method, Sheet
from difftori.report.statistics import Array, Estimate, Metric

# Okabe and Ito's colours and, for what others published, Tol's muted ones: both can be told apart
# by people with colour vision deficiencies.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MUTED = ("#882255", "#117733", "#332288", "#999933", "#AA4499", "#44AA99", "#CC6677", "#6F6F6F")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "*")
DASHES: tuple[object, ...] = ("-", (0, (6, 1.2)), (0, (4, 1, 1, 1)))
LABEL_POINTS = 7.5
STYLE: dict[Any, object] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so pictures are the same everywhere
    "font.size": 7,
    "axes.titlesize": 7.5,
    "axes.labelsize": LABEL_POINTS,
    "axes.titlepad": 3.5,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.5,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "xtick.major.size": 2.2,
    "ytick.major.size": 2.2,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.handlelength": 2.2,
    "legend.columnspacing": 1.4,
    "lines.linewidth": 1.4,
    "figure.constrained_layout.use": True,
    "pdf.fonttype": 42,  # text stays text
    "svg.fonttype": "none",
    "savefig.dpi": 300,
}
DOTTED: dict[str, Any] = {"linestyle": (0, (1, 1.2)), "linewidth": 1.0}
PARTIAL = "some seeds only"
COLUMN_INCHES = 3.4
PAGE_INCHES = 7.0
LEGEND_LINE_INCHES = 0.145
METRIC_NAMES: Mapping[Metric, str] = {"mean": "mean", "iqm": "IQM"}


def draw_curves(
    sheet: Sheet,
    curves: Mapping[Cell, CellCurve],
    published: Mapping[PublishedKey, PublishedCurve],
    *,
    metric: Metric,
    end: int,
    free_y: bool = False,
) -> Figure:
    """One panel for each task; ``end`` is the last env step of the axes.

    Published methods that begin later are left out.
    """
    tasks = sheet.tasks
    figure, panels = _grid(len(tasks))
    theirs = drawn_until(end, published)
    names = list(dict.fromkeys(key.method for key in theirs))
    maxima = []
    labels = [f"{sheet.label(method)} ({_seed_count(curves, method)})" for method in sheet.methods]
    for axes, task in zip(panels, tasks, strict=True):
        axes.set_title(task)
        for index, method in enumerate(sheet.methods):
            drawn = curves.get(Cell(method, task))
            if drawn is not None:
                _line(axes, drawn.steps, drawn.estimate, drawn.complete, index, labels[index])
        for index, name in enumerate(names):
            curve = theirs.get(PublishedKey(name, task, sheet.modality))
            if curve is not None:
                _published_line(axes, curve.mean.steps, curve.mean.scores, index, name)
                if len(names) == 1:
                    low, high = curve.mean.scores - curve.std, curve.mean.scores + curve.std
                    _band(axes, curve.mean.steps, low, high, MUTED[index], alpha=0.12)
        _steps_axis(axes, end, small=len(tasks) > 2)
        maximum = None if free_y or beyond_maximum(sheet, theirs, task) else sheet.maximum(task)
        _score_axis(axes, maximum, small=len(tasks) > 2)
        maxima.append(maximum)
    what = f"{sheet.score.label}{_how(metric, [c.estimate for c in curves.values()])}"
    if len(panels) == 1:
        panels[0].set_xlabel("Environment steps")
        panels[0].set_ylabel(what)
    else:
        figure.supxlabel("Environment steps", fontsize=LABEL_POINTS)
        figure.supylabel(what, fontsize=LABEL_POINTS)
        _label_outer_axes(panels, shared_y=len(set(maxima)) == 1 and None not in maxima)
    _legend(figure, panels, [*labels, *names, PARTIAL])
    return figure


def draw_aggregate(sheet: Sheet, result: Aggregate, *, metric: Metric, end: int) -> Figure:
    """One panel: the mean or IQM over all tasks."""
    figure, (axes,) = _grid(1)
    order = [sheet.label(method) for method in sheet.methods]
    labels = [f"{curve.label} ({curve.runs} runs)" for curve in result.curves]
    for curve, label in zip(result.curves, labels, strict=True):
        complete = np.ones(len(curve.steps), dtype=bool)
        _line(axes, curve.steps, curve.estimate, complete, order.index(curve.label), label)
    names = [f"{c.label} (mean)" if metric != "mean" else c.label for c in result.published]
    top = 1.0
    for index, (curve, name) in enumerate(zip(result.published, names, strict=True)):
        shown = curve.steps <= end
        if shown.any():
            _published_line(axes, curve.steps[shown], curve.estimate.value[shown], index, name)
            top = max(top, float(curve.estimate.value[shown].max()))
    axes.set_title(f"{len(result.tasks)} tasks")
    _steps_axis(axes, end)
    axes.set_ylim(-0.03 * top, 1.03 * top)
    axes.set_xlabel("Environment steps")
    how = _how(metric, [curve.estimate for curve in result.curves])
    axes.set_ylabel(f"{normalized_label(sheet, result.tasks)}{how}")
    _legend(figure, [axes], [*labels, *names])
    return figure


def draw_profiles(sheet: Sheet, result: Profiles) -> Figure:
    """One panel: the share of runs above each score."""
    figure, (axes,) = _grid(1)
    order = [sheet.label(method) for method in sheet.methods]
    complete = np.ones(len(THRESHOLDS), dtype=bool)
    labels = [
        f"{profile.label} ({profile.runs} run{'' if profile.runs == 1 else 's'})"
        for profile in result.profiles
    ]
    for profile, label in zip(result.profiles, labels, strict=True):
        index = order.index(profile.label)
        _line(axes, THRESHOLDS, profile.estimate, complete, index, label, steps=True)
    what = result.tasks[0] if len(result.tasks) == 1 else f"{len(result.tasks)} tasks"
    axes.set_title(f"{what}, {format_steps(result.env_step)} env steps")
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel(f"{normalized_label(sheet, result.tasks)}, τ")
    axes.set_ylabel("Share of runs above τ (95% CI)")
    _legend(figure, [axes], labels)
    return figure


def _how(metric: Metric, estimates: Sequence[Estimate]) -> str:
    """What line and band are, for the label of an axis; nothing for single runs."""
    if not any(np.isfinite(estimate.low).any() for estimate in estimates):
        return ""
    return f" ({METRIC_NAMES[metric]}, 95% CI)"


def save(figure: Figure, stem: Path) -> list[Path]:
    """``stem`` with ``.png`` and ``.pdf``; raises OSError."""
    paths = [stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}.pdf")]
    figure.savefig(paths[0])
    figure.set_layout_engine("none")  # is done, and takes seconds with many panels
    # without a date, the same data gives the same file
    figure.savefig(paths[1], metadata={"CreationDate": None})
    return paths


def normalized_label(sheet: Sheet, tasks: Sequence[str]) -> str:
    """What an axis of scores between 0 and 1 shows."""
    if sheet.score.column == "success":
        return "Success rate"
    maxima = {sheet.maximum(task) for task in tasks}
    by = f"{next(iter(maxima)):g}" if len(maxima) == 1 else "the largest possible"
    return f"Return / {by}"


def _grid(count: int) -> tuple[Figure, list[Axes]]:
    """A figure with ``count`` panels, as wide as a column for one, as a page for three or more."""
    mpl.rcParams.update(STYLE)
    columns = count if count <= 4 else 4 if count <= 16 else 5
    rows = math.ceil(count / columns)
    width = {1: COLUMN_INCHES, 2: 5.2}.get(columns, PAGE_INCHES)
    height = {1: 2.2, 2: 2.0, 3: 1.75, 4: 1.35, 5: 1.1}[columns]
    figure = Figure(figsize=(width, rows * height + 0.45), layout="constrained")
    panels = [figure.add_subplot(rows, columns, index + 1) for index in range(count)]
    if columns == 5:
        for axes in panels:
            axes.title.set_fontsize(6.5)
    return figure, panels


def _label_outer_axes(panels: Sequence[Axes], *, shared_y: bool) -> None:
    """Numbers on the panels that have none to their left or below them."""
    for axes in panels:
        place = axes.get_subplotspec()
        assert place is not None
        columns = place.get_gridspec().ncols
        axes.tick_params(labelleft=not shared_y or place.is_first_col())
        axes.tick_params(labelbottom=place.num1 + columns >= len(panels))


def _line(
    axes: Axes,
    x: Steps | Array,
    estimate: Estimate,
    complete: np.typing.NDArray[np.bool_],
    index: int,
    label: str,
    *,
    steps: bool = False,
) -> None:
    colour = COLOURS[index % len(COLOURS)]
    dash = DASHES[index // len(COLOURS) % len(DASHES)]
    low = np.where(complete, estimate.low, np.nan)
    cap = max(4.0, 10.0 - 2 * index)  # of bars at the same step, no cap hides another
    _band(axes, x, low, estimate.high, colour, alpha=0.2, cap=cap, steps=steps)
    marker = "o" if complete.sum() == 1 else None
    axes.plot(
        x[complete], estimate.value[complete], color=colour, linestyle=dash, marker=marker,
        markersize=3, label=label, zorder=3, drawstyle="steps-post" if steps else "default",
    )  # fmt: skip
    if not complete.all():
        _partial(axes, x, estimate.value, complete, colour)


def _band(
    axes: Axes,
    x: Steps | Array,
    low: Array,
    high: Array,
    colour: str,
    *,
    alpha: float,
    cap: float = 6.0,
    steps: bool = False,
) -> None:
    """From ``low`` to ``high`` where they are known.

    At a single point a band would have no width: an error bar with caps of ``cap`` points.
    """
    known = np.isfinite(low)
    if known.sum() == 1:
        ends = [float(low[known][0]), float(high[known][0])]
        axes.plot(
            np.repeat(x[known], 2), ends, color=colour, linewidth=1.0, marker="_", markersize=cap,
            alpha=0.7, zorder=2.8,
        )  # fmt: skip
        return
    axes.fill_between(
        x[known], low[known], high[known], color=colour, alpha=alpha, linewidth=0,
        step="post" if steps else None,
    )  # fmt: skip


def _partial(
    axes: Axes, x: Steps | Array, y: Array, complete: np.typing.NDArray[np.bool_], colour: str
) -> None:
    """Where some seeds have no value: dotted, and joined to the rest."""
    near = ~complete | np.roll(~complete, 1) | np.roll(~complete, -1)
    near[0] = ~complete[:2].all()
    near[-1] = ~complete[-2:].all()
    axes.plot(x, np.where(near, y, np.nan), color=colour, zorder=2.5, **DOTTED)
    axes.plot([], [], color="#555555", label=PARTIAL, **DOTTED)


def _published_line(axes: Axes, steps: Steps, means: Array, index: int, name: str) -> None:
    axes.plot(
        steps, means, color=MUTED[index % len(MUTED)], linestyle=(0, (4, 1.5)),
        marker=MARKERS[index % len(MARKERS)], linewidth=0.8, markersize=2.4, label=name, zorder=2,
    )  # fmt: skip


def _seed_count(curves: Mapping[Cell, CellCurve], method: Method) -> str:
    """How many seeds the curves of a method have, over its tasks."""
    counts = {len(curve.seeds) for cell, curve in curves.items() if cell.method == method}
    text = "–".join(str(count) for count in sorted({min(counts), max(counts)}))
    return f"{text} seed{'' if text == '1' else 's'}"


def _steps_axis(axes: Axes, end: int, *, small: bool = False) -> None:
    axes.set_xlim(0, 1.02 * end)  # room for half a marker
    locator = MaxNLocator(2 if small else 5, steps=[1, 2, 2.5, 5, 10])
    axes.set_xticks([tick for tick in locator.tick_values(0, end) if tick <= end])
    axes.xaxis.set_major_formatter(FuncFormatter(format_steps))


def _score_axis(axes: Axes, maximum: float | None, *, small: bool) -> None:
    """From 0 to ``maximum``; None: to what is drawn."""
    if maximum is None:
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        return
    axes.set_ylim(-0.03 * maximum, 1.03 * maximum)
    axes.set_yticks(np.linspace(0, 1, 3 if small else 5) * maximum)


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
