"""The pictures' axes and legends."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from report_fakes import comparison_of

from difftori.report.figures import draw_aggregate, draw_curves
from difftori.report.tables import aggregates, curves

END = 500_000


def curves_figure(tasks: int, methods: int, published: int = 0, scale: float = 1.0) -> Figure:
    """Two seeds, of which the second has one evaluation less; the others' scores are scaled."""
    points = {100_000: 1.0, 200_000: 2.0, END: 3.0}
    short = {step: 2 * score for step, score in points.items() if step != END}
    names = [f"task-{index}-with-a-name" for index in range(tasks)]
    runs = {(task, f"experiment-{i}"): [points, short] for task in names for i in range(methods)}
    rows = [
        (names[0], f"paper-{index}", 0, step, scale * score)
        for index in range(published)
        for step, score in points.items()
    ]
    theirs = pd.DataFrame(rows, columns=["task", "method", "seed", "env_step", "score"])
    comparison = comparison_of(runs, maximum=1000.0, published=theirs)
    return draw_curves(comparison, curves(comparison.everything, "mean"), "mean")


def legend_texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.parametrize(("tasks", "methods", "published"), [(1, 1, 0), (1, 9, 6), (6, 3, 2)])
def test_the_legend_covers_nothing_and_fits(tasks: int, methods: int, published: int) -> None:
    figure = curves_figure(tasks, methods, published)
    assert len(legend_texts(figure)) == methods + published
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    box = figure.legends[0].get_window_extent(renderer)
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.width
    for axes in figure.axes:
        panel = axes.get_tightbbox(renderer)
        assert panel is not None
        assert not box.overlaps(panel)


def test_the_legend_names_each_line_once() -> None:
    texts = legend_texts(curves_figure(tasks=2, methods=2, published=1))
    assert sorted(texts) == ["experiment-0 (seeds: 2)", "experiment-1 (seeds: 2)", "paper-0"]


def test_no_two_lines_look_alike() -> None:
    axes = curves_figure(tasks=1, methods=12, published=1).axes[0]
    lines = [line for line in axes.lines if not str(line.get_label()).startswith("_")]
    looks = {(str(line.get_color()), line.get_linestyle()) for line in lines}
    assert len(looks) == len(lines) == 13


def test_an_aggregate_counts_the_runs_of_its_tasks_alone() -> None:
    """The method that was run on a third task has one seed there."""
    runs = {(task, method): [{10: 1.0}] * 2 for task in ("a", "b") for method in ("m", "n")}
    comparison = comparison_of(runs | {("c", "m"): [{10: 1.0}]}, maximum=1000.0)
    figure = draw_aggregate(comparison, aggregates(comparison, "mean"), "mean")
    assert legend_texts(figure) == ["m (4 runs)", "n (4 runs)"]


def test_published_scores_beyond_the_maximum_are_in_the_picture() -> None:
    ours, higher = (curves_figure(2, 1, 1, scale=scale).axes[0] for scale in (1, 1000))
    assert ours.get_ylim()[1] == 1030
    assert higher.get_ylim()[1] > 3000


def test_bands_are_in_the_picture_too() -> None:
    runs = {("a", "m"): [{10: -1200.0}, {10: -300.0}, {10: 40.0}]}
    comparison = comparison_of(runs, maximum=None)
    (axes,) = draw_curves(comparison, curves(comparison.scores, "mean"), "mean").axes
    bottom, top = axes.get_ylim()
    assert bottom < -1200
    assert top > 40


def test_only_an_interval_is_called_one() -> None:
    for seeds, name in ((1, "Return"), (2, "Return (mean, 95% CI)")):
        comparison = comparison_of({("a", "m"): [{10: 1.0}] * seeds})
        figure = draw_curves(comparison, curves(comparison.scores, "mean"), "mean")
        assert figure.get_supylabel() == name


def test_where_some_seeds_have_no_value_a_line_is_thin_and_has_no_band() -> None:
    (axes,) = curves_figure(tasks=1, methods=1).axes
    (thin, thick), (band,) = axes.lines, axes.collections
    assert thin.get_linewidth() < thick.get_linewidth()
    assert np.asarray(thin.get_xdata()).tolist() == [100_000, 200_000, END]
    assert np.isfinite(np.asarray(thin.get_ydata(), float)).tolist() == [True, True, True]
    assert np.isfinite(np.asarray(thick.get_ydata(), float)).tolist() == [True, True, False]
    assert np.asarray(band.get_paths()[0].vertices)[:, 0].max() == 200_000
