"""The pictures' axes and legends."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from difftori.report.analysis import cell_curve
from difftori.report.curves import Series
from difftori.report.drawing import PARTIAL, draw_curves
from difftori.report.published import PublishedCurve, PublishedKey
from difftori.report.sheets import Cell, Method, Sheet


def curves_figure(tasks: int, methods: int, published: int = 0) -> Figure:
    names = [f"task-{index}-with-a-name" for index in range(tasks)]
    cells = [
        Cell(Method("mode", f"experiment-{m}"), task) for task in names for m in range(methods)
    ]
    sheet = Sheet("dmcontrol", "state", {cell: {} for cell in cells})
    steps = np.array([100_000, 200_000, 500_000])
    series = {
        1: Series(steps, np.array([1.0, 2.0, 3.0])),
        2: Series(steps[:2], np.array([2.0, 3.0])),
    }
    theirs = PublishedCurve(series[1], np.full(3, np.nan), "", "")
    return draw_curves(
        sheet,
        {cell: cell_curve(cell, series, "mean") for cell in cells},
        {PublishedKey(f"paper-{p}", names[0], "state"): theirs for p in range(published)},
        metric="mean",
        end=500_000,
    )


@pytest.mark.parametrize(("tasks", "methods", "published"), [(1, 1, 0), (1, 9, 6), (6, 3, 2)])
def test_the_legend_covers_nothing_and_fits(tasks: int, methods: int, published: int) -> None:
    figure = curves_figure(tasks, methods, published)
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    (legend,) = figure.legends
    box = legend.get_window_extent(renderer)
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.width
    for axes in figure.axes:
        assert not box.overlaps(axes.get_tightbbox(renderer))


def test_the_legend_names_each_line_once_and_explains_the_dots() -> None:
    figure = curves_figure(tasks=2, methods=2, published=1)
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["experiment-0 (2 seeds)", "experiment-1 (2 seeds)", "paper-0", PARTIAL]


def test_where_some_seeds_have_no_value_a_line_is_not_solid() -> None:
    (axes,) = curves_figure(tasks=1, methods=1).axes
    solid = axes.lines[0]
    assert np.asarray(solid.get_xdata()).tolist() == [100_000, 200_000]
    (band,) = axes.collections
    assert band.get_paths()[0].vertices[:, 0].max() == 200_000


@pytest.mark.parametrize("tasks", [1, 6])
def test_the_axis_names_its_end(tasks: int) -> None:
    axes = curves_figure(tasks, methods=1).axes[0]
    ticks = [axes.xaxis.get_major_formatter()(tick, 0) for tick in axes.get_xticks()]
    assert ticks[0] == "0"
    assert ticks[-1] == "500k"
    assert len(ticks) == (3 if tasks > 2 else 6)
