"""The estimate counts what the loop does."""

import dataclasses
import time
from pathlib import Path

import pytest

from difftori.checkpoints.tree_file import load_tree
from difftori.config import compose
from difftori.doctor import speed
from runs import run_debug, run_folder

POINT = {"suite": "integrator", "domain": "point-2d", "domain_task": "16-steps", "action_repeat": 1}
ONES = speed.Speed(1.0, 1.0, 1.0, 1.0, 1.0, 1.0)


def test_the_work_of_a_real_run(tmp_path: Path) -> None:
    overrides = [f"{key}={value}" for key, value in POINT.items()]
    assert run_debug(tmp_path, *overrides) == 0
    (*_, last) = sorted((run_folder(tmp_path) / "checkpoints").glob("step_*"))
    counters = load_tree(last)["counters"]
    counted = speed.work(compose("preset=debug", *overrides), 16)
    steps = counted.random_steps + counted.warmup_steps + counted.planned_steps
    assert steps == counters["agent_step"]
    assert counted.updates == counters["update"]
    assert counted.evaluations == counters["evaluated_through"]
    assert (counted.random_steps, counted.warmup_steps) == (16, 16)


def test_phases_last_whole_episodes() -> None:
    config = compose("preset=debug", train_steps=70, seed_steps=20, theseus_start_step=40, **POINT)
    counted = speed.work(config, 16)
    assert counted == speed.Work(
        random_steps=32, warmup_steps=16, planned_steps=32, updates=20 + 32, evaluations=80 // 32
    )


def test_a_run_that_never_plans() -> None:
    config = compose("preset=debug", train_steps=16, seed_steps=100, **POINT)
    counted = speed.work(config, 16)
    assert counted == speed.Work(16, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("part", "seconds"),
    [
        ("env", 20 + 30 + 40 + 5 * 16 * 2),
        ("warmup_plan", 30),
        ("plan", 40),
        ("update", 50),
        ("eval_plan", 5 * 16),
        ("replayed_plan", 5),
    ],
)
def test_each_part_counts_as_often_as_it_runs(part: str, seconds: int) -> None:
    config = compose("preset=debug", **POINT)
    counts = speed.Work(20, 30, 40, 50, 5)
    slower = dataclasses.replace(ONES, **{part: 2.0})
    first, second = (speed.estimate(s, counts, config, 16).total for s in (ONES, slower))
    assert second - first == pytest.approx(seconds)


@pytest.mark.parametrize("mode", ["default", "back_plan", "back_plan_per_step", "back_plan_replay"])
def test_every_mode_can_be_measured(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    monkeypatch.setattr(speed, "BUDGET_SECONDS", dict.fromkeys(speed.BUDGET_SECONDS, 0.0))
    measured, length = speed.measure(compose("preset=debug", f"mode={mode}", **POINT))
    assert length == 16
    assert (measured.replayed_plan > 0) == (mode == "back_plan_replay")
    assert min(measured.env, measured.plan, measured.warmup_plan, measured.update) > 0


def test_pixels_can_be_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "BUDGET_SECONDS", dict.fromkeys(speed.BUDGET_SECONDS, 0.0))
    measured, _ = speed.measure(compose("preset=debug", "modality=pixels", **POINT))
    assert measured.update > 0


def test_the_test_ends_by_its_deadline_and_every_part_is_done() -> None:
    said: list[str] = []
    watch = speed._Stopwatch(time.perf_counter() + 0.2, said.append)
    calls = dict.fromkeys(("env", "update", "plan"), 0)

    def slow(part: str) -> None:
        calls[part] += 1
        time.sleep(0.03)

    began = time.perf_counter()
    seconds = [watch.seconds_each(part, lambda part=part: slow(part)) for part in calls]
    assert time.perf_counter() - began < 1.0
    assert min(seconds) > 0.025
    assert calls["env"] > 1
    assert (calls["update"], calls["plan"]) == (1, 1)
    assert said == ["speed: env", "speed: update", "speed: plan"]


def test_the_first_call_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(speed.BUDGET_SECONDS, "env", 0.3)
    pauses = iter([0.2, *[0.01] * 100])
    watch = speed._Stopwatch(float("inf"), lambda text: None)
    assert watch.seconds_each("env", lambda: time.sleep(next(pauses))) < 0.1
