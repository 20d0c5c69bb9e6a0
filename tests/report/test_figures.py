"""The pictures' axes and legends."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from difftori.report.comparison import Comparison
from difftori.report.figures import PARTIAL, draw_aggregate, draw_curves
from difftori.report.tables import curves

END = 500_000


def curves_figure(
    tasks: int, methods: int, published: int = 0, *, scale: float = 1.0, steps: int = 3
) -> Figure:
    """Two seeds, of which the second has one evaluation less if ``steps`` are three.

    Published scores are ``scale`` times those of the first seed.
    """
    names = [f"task-{index}-with-a-name" for index in range(tasks)]
    labels = [f"experiment-{index}" for index in range(methods)]
    points = [(100_000, 1.0), (200_000, 2.0), (END, 3.0)][:steps]
    rows = [
        (task, label, seed, step, seed * score)
        for task in names
        for label in labels
        for seed in (1, 2)
        for step, score in points[: 2 if seed == 2 else 3]
    ]
    scores = pd.DataFrame(rows, columns=["task", "method", "seed", "env_step", "score"])
    maxima = dict.fromkeys(names, 1000.0)
    comparison = Comparison("n", "state", scores, tuple(labels), "Return", maxima, END, ())
    theirs = [
        (f"paper-{p}", names[0], step, scale * score, 0.5)
        for p in range(published)
        for step, score in points
    ]
    overlay = pd.DataFrame(theirs, columns=["method", "task", "env_step", "mean", "std"])
    table = curves(comparison, "mean")
    return draw_curves(comparison, table, overlay, metric="mean", end=END)


def legend_texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


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
    texts = legend_texts(curves_figure(tasks=2, methods=2, published=1))
    assert texts == ["experiment-0 (2 seeds)", "experiment-1 (2 seeds)", "paper-0", PARTIAL]


def test_published_scores_beyond_the_runs_maximum_are_in_the_picture() -> None:
    ours, higher = (curves_figure(2, 1, 1, scale=scale).axes[0] for scale in (1, 1000))
    assert ours.get_ylim()[1] == 1030
    assert higher.get_ylim()[1] > 3000


def test_what_was_published_beyond_the_axes_is_not_in_the_legend() -> None:
    rows = [("drawn", 2, 0, 10, 9.0), ("later", 2, 0, 99, 99.0)]
    table = pd.DataFrame(rows, columns=["method", "n_tasks", "n_runs", "env_step", "value"])
    table["ci_low"] = table["ci_high"] = np.nan
    comparison = Comparison("n", "state", pd.DataFrame(), (), "Return", {}, 50, ())
    figure = draw_aggregate(comparison, table, metric="mean", end=50)
    assert 9 < figure.axes[0].get_ylim()[1] < 10
    assert legend_texts(figure) == ["drawn"]


def test_where_some_seeds_have_no_value_a_line_is_not_solid() -> None:
    (axes,) = curves_figure(tasks=1, methods=1).axes
    solid, dotted = axes.lines[:2]
    assert np.asarray(solid.get_xdata()).tolist() == [100_000, 200_000]
    assert solid.get_linestyle() == "-"
    assert np.isfinite(np.asarray(dotted.get_ydata())).tolist() == [False, True, True]
    (band,) = axes.collections
    assert band.get_paths()[0].vertices[:, 0].max() == 200_000


def test_a_single_evaluation_has_an_error_bar() -> None:
    (axes,) = curves_figure(tasks=1, methods=1, steps=1).axes
    (bar,) = (c for c in axes.collections if len(c.get_paths()[0].vertices) == 2)
    assert bar.get_paths()[0].vertices.tolist() == [[100_000, 1], [100_000, 2]]


@pytest.mark.parametrize("tasks", [1, 6])
def test_the_axis_names_its_end(tasks: int) -> None:
    axes = curves_figure(tasks, methods=1).axes[0]
    ticks = [axes.xaxis.get_major_formatter()(tick, 0) for tick in axes.get_xticks()]
    assert (ticks[0], ticks[-1], len(ticks)) == ("0", "500k", 3 if tasks > 2 else 6)
