"""The pictures' axes and legends."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from difftori.report.analysis import Aggregate, AggregateCurve, cell_curve
from difftori.report.curves import Series
from difftori.report.drawing import PARTIAL, draw_aggregate, draw_curves
from difftori.report.published import PublishedCurve, PublishedKey
from difftori.report.sheets import Cell, Method, Sheet
from difftori.report.statistics import Estimate


def curves_figure(
    tasks: int, methods: int, published: int = 0, *, scale: float = 1.0, later: int = 0
) -> Figure:
    """The published scores are ``scale`` times the runs'; they begin ``later`` env steps later."""
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
    mean = Series(steps + later, scale * series[1].scores)
    theirs = PublishedCurve(mean, np.full(3, np.nan), "", "")
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


def test_published_scores_beyond_the_runs_maximum_are_in_the_picture() -> None:
    ours, higher = (curves_figure(2, 1, 1, scale=scale).axes[0] for scale in (1, 1000))
    assert ours.get_ylim()[1] == 1030
    assert higher.get_ylim()[1] > 3000


def test_a_published_method_of_which_nothing_is_drawn_is_not_in_the_legend() -> None:
    begins_at_the_end, begins_later = (
        [text.get_text() for text in curves_figure(1, 1, 1, later=later).legends[0].get_texts()]
        for later in (400_000, 400_001)
    )
    assert "paper-0" in begins_at_the_end
    assert "paper-0" not in begins_later


def test_an_aggregate_covers_the_published_curves_that_it_draws() -> None:
    steps, nothing = np.array([10, 20]), np.full(2, np.nan)
    theirs = [
        AggregateCurve(
            name, 0, steps + later, Estimate(value * np.ones(2), nothing, nothing), False
        )
        for name, later, value in (("drawn", 0, 9.0), ("later", 90, 99.0))
    ]
    sheet = Sheet("dmcontrol", "state", {})
    figure = draw_aggregate(sheet, Aggregate(("a", "b"), (), tuple(theirs)), metric="mean", end=50)
    assert 9 < figure.axes[0].get_ylim()[1] < 10
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["drawn"]


def test_where_some_seeds_have_no_value_a_line_is_not_solid() -> None:
    (axes,) = curves_figure(tasks=1, methods=1).axes
    solid = axes.lines[0]
    assert np.asarray(solid.get_xdata()).tolist() == [100_000, 200_000]
    (band,) = axes.collections
    assert band.get_paths()[0].vertices[:, 0].max() == 200_000


def test_a_single_evaluation_has_an_error_bar() -> None:
    sheet = Sheet("dmcontrol", "state", {Cell(Method("mode", "e"), "task"): {}})
    steps = np.array([10])
    runs = {seed: Series(steps, np.array([400.0 + 100 * seed])) for seed in (1, 2)}
    curves = {cell: cell_curve(cell, runs, "mean") for cell in sheet.cells}
    theirs = PublishedCurve(Series(steps, np.array([300.0])), np.array([50.0]), "", "")
    published = {PublishedKey("paper", "task", "state"): theirs}
    (axes,) = draw_curves(sheet, curves, published, metric="mean", end=20).axes
    bars = [line for line in axes.lines if line.get_marker() == "_"]
    assert [np.asarray(bar.get_xdata()).tolist() for bar in bars] == [[10, 10], [10, 10]]
    assert [np.asarray(bar.get_ydata()).tolist() for bar in bars] == [[500, 600], [250, 350]]
    assert not axes.collections


@pytest.mark.parametrize("tasks", [1, 6])
def test_the_axis_names_its_end(tasks: int) -> None:
    axes = curves_figure(tasks, methods=1).axes[0]
    ticks = [axes.xaxis.get_major_formatter()(tick, 0) for tick in axes.get_xticks()]
    assert ticks[0] == "0"
    assert ticks[-1] == "500k"
    assert len(ticks) == (3 if tasks > 2 else 6)
