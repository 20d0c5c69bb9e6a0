"""The estimate counts what the trainer does."""

import pytest

from difftori.config import compose
from difftori.training import estimate
from runs import POINT


def test_a_phase_is_timed_without_its_first_step() -> None:
    times = iter([90.0, 100.0, 101.0, 103.0, 110.0, 112.0])
    stopwatch = estimate.Stopwatch(lambda: next(times))
    stopwatch.phase("acting", 3)
    for done in (1, 2, 3):
        stopwatch.phase_step(done)
    stopwatch.phase("evaluating", 1)
    stopwatch.phase_step(1)
    assert stopwatch.seconds_each == {"acting": 1.5, "evaluating": 2.0}


@pytest.mark.parametrize(
    ("phase", "steps"),
    [("acting at random", 16), ("acting", 48), ("updating", 64), ("evaluating", 2 * 16)],
)
def test_each_phase_counts_as_often_as_it_runs(phase: str, steps: int) -> None:
    config = compose("preset=debug", *POINT)
    seconds = dict.fromkeys(("acting at random", "acting", "updating", "evaluating"), 0.0)
    assert estimate.estimate(config, {**seconds, phase: 1.0}, 16) == steps
    twice = compose("preset=debug", "updates_per_step=2", *POINT)
    times = 2 if phase == "updating" else 1
    assert estimate.estimate(twice, {**seconds, phase: 1.0}, 16) == times * steps


def test_updates_that_were_never_timed_take_no_time() -> None:
    seconds = {"acting at random": 1.0, "acting": 1.0, "evaluating": 0.0}
    assert estimate.estimate(compose("preset=debug", *POINT), seconds, 16) == 64
