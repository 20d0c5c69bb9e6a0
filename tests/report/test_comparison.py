"""Runs are sorted into methods; readers hear of what does not fit together."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from report_fakes import make_run

from difftori.report.comparison import Comparison, compare
from difftori.report.folders import RunFolderError
from difftori.report.published import COLUMNS
from difftori.report.runs import Run, read_run

WHOLE = {10: 1.0, 20: 2.0, 30: 3.0}
NOTHING = pd.DataFrame(columns=COLUMNS)


def only(*runs: Run, **options: Any) -> Comparison:
    (comparison,) = compare(runs, NOTHING, **options)
    return comparison


def test_suites_and_modalities_are_apart(tmp_path: Path) -> None:
    success = {10: "25.0,0.5\n20,30.0"}
    runs = [
        read_run(make_run(tmp_path, WHOLE)),
        read_run(make_run(tmp_path, WHOLE, modality="pixels")),
        read_run(make_run(tmp_path, success, task="mw-reach", suite="metaworld")),
        read_run(make_run(tmp_path, WHOLE, task="point", suite="integrator")),
    ]
    found = {each.name: each for each in compare(runs, NOTHING)}
    assert list(found) == [
        "dmcontrol-pixels",
        "dmcontrol-state",
        "integrator-state",
        "metaworld-state",
    ]
    assert [each.maximum for each in found.values()] == [1000, 1000, None, 1]
    assert found["metaworld-state"].score_name == "Success rate"
    assert found["metaworld-state"].scores["score"].tolist() == [0.5]
    unscored = make_run(tmp_path, WHOLE, task="mw-push", suite="metaworld")
    assert compare([read_run(unscored)], NOTHING) == []


def test_of_two_folders_of_a_seed_the_further_one_is_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    short = read_run(make_run(tmp_path / "a", {10: 1.0}))
    long = read_run(make_run(tmp_path / "b", {10: 1.0, 20: 2.0}))
    assert only(long, short).scores["score"].tolist() == [1, 2]
    assert f"{short.folder} is left out" in caplog.text


@pytest.mark.parametrize(
    ("arms", "names"),
    [
        ([("", "back_plan", "a")], ("back_plan",)),
        ([("", "back_plan", "a"), ("", "back_plan", "b")], ("a", "b")),
        ([("", "default", "a"), ("", "back_plan", "a")], ("back_plan", "default")),
        ([("", "default", "a"), ("", "back_plan", "b")], ("back_plan/b", "default/a")),
        ([("", "default", "a"), ("Z", "x", "a"), ("B", "x", "b")], ("Z", "B", "default")),
    ],
)
def test_methods_have_a_label_or_the_shortest_name(
    tmp_path: Path, arms: list[tuple[str, str, str]], names: tuple[str, ...]
) -> None:
    runs = [
        read_run(make_run(tmp_path, WHOLE, mode=mode, exp_name=exp_name), label)
        for label, mode, exp_name in arms
    ]
    assert only(*runs).methods == names


def test_a_label_that_does_not_say_which_runs_are_meant_is_refused(tmp_path: Path) -> None:
    """One over two experiments with the same seed, and one that is also the name of the others."""
    runs = [make_run(tmp_path, WHOLE, exp_name=name) for name in ("a", "b")]
    with pytest.raises(RunFolderError, match="ours has two experiments with the same seed: "):
        only(*(read_run(run, "ours") for run in runs))
    with pytest.raises(RunFolderError, match="has no label, and would be called back_plan"):
        only(read_run(runs[0], "back_plan"), read_run(runs[1]))


def test_missing_and_short_seeds_are_named(tmp_path: Path) -> None:
    runs = [read_run(make_run(tmp_path, WHOLE, seed=seed)) for seed in (1, 2)]
    assert only(*runs).notes == ()
    runs.append(read_run(make_run(tmp_path, {10: 1.0, 20: 2.0}, task="walker-run")))
    runs.append(read_run(make_run(tmp_path, {}, seed=3)))
    (note,) = only(*runs).notes
    assert note.endswith("missing or not at their end: cup-catch 3; walker-run 1, 2, 3")
    assert only(*runs, drop_short=True).tasks == ["cup-catch"]
    assert compare(runs[-1:], NOTHING) == []


def test_seeds_with_other_settings_or_versions_are_named(tmp_path: Path) -> None:
    def run(seed: int, torch: str, **keys: Any) -> Run:
        session = {"python": "3.11", "git_commit": "a", "versions": {"torch": torch}}
        made = {"sessions": [session]}
        return read_run(make_run(tmp_path, WHOLE, seed=seed, provenance=made, **keys))

    runs = [run(1, "2", threads=1, plan_spread=0.0), run(2, "2", threads=2, plan_spread=0)]
    # one that does not say
    runs.append(read_run(make_run(tmp_path, WHOLE, seed=3)))
    assert only(*runs).notes == ()
    (note,) = only(*runs, run(4, "3", lr=0.5)).notes
    assert note == "back_plan: the seeds of a task differ in lr, torch"
    (note,) = only(*runs, run(5, "2", layer_norm=True)).notes  # the others are of before that key
    assert note == "back_plan: the seeds of a task differ in layer_norm"
