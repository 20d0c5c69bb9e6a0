"""Runs are sorted into methods; readers hear of what does not fit together."""

import logging
from pathlib import Path
from typing import Any

import pytest
from report_fakes import make_run

from difftori.report.comparison import Comparison, compare, mixed_versions
from difftori.report.runs import Run, read_run

WHOLE = {10: 1.0, 20: 2.0, 30: 3.0}


def only(*runs: Run, **options: Any) -> Comparison:
    (comparison,) = compare(runs, **options)
    return comparison


def test_suites_and_modalities_are_apart(tmp_path: Path) -> None:
    runs = [
        read_run(make_run(tmp_path, WHOLE)),
        read_run(make_run(tmp_path, WHOLE, modality="pixels")),
        read_run(make_run(tmp_path, WHOLE, task="mw-reach", suite="metaworld")),
    ]
    names = [comparison.name for comparison in compare(runs)]
    assert names == ["dmcontrol-pixels", "dmcontrol-state", "metaworld-state"]


def test_of_two_folders_of_a_seed_the_further_one_is_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    short = read_run(make_run(tmp_path / "a", {10: 1.0}))
    long = read_run(make_run(tmp_path / "b", {10: 1.0, 20: 2.0}))
    assert only(short, long).scores["score"].tolist() == [1, 2]
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


def test_the_largest_return_follows_the_episodes_length(tmp_path: Path) -> None:
    whole = read_run(make_run(tmp_path, WHOLE, task="walker-run"))
    cut = read_run(make_run(tmp_path, WHOLE, episode_length=128))
    assert only(whole, cut).maxima == {"walker-run": 1000, "cup-catch": 128}
    other = read_run(make_run(tmp_path / "other", WHOLE, suite="gym"))
    assert only(other).maxima == {"cup-catch": None}


def test_meta_world_counts_success_where_it_was_logged(tmp_path: Path) -> None:
    told = read_run(make_run(tmp_path / "a", {10: "25.0,0.5\n20,30.0"}, suite="metaworld"))
    assert only(told).score_name == "Success rate"
    assert only(told).scores["score"].tolist() == [0.5]
    assert only(told).maxima == {"cup-catch": 1}
    untold = read_run(make_run(tmp_path / "b", {10: 25.0}, suite="metaworld"))
    assert only(untold).score_name == "Episode return"
    assert only(untold).maxima == {"cup-catch": None}


def test_missing_and_short_seeds_are_named(tmp_path: Path) -> None:
    runs = [read_run(make_run(tmp_path, WHOLE, seed=seed)) for seed in (1, 2)]
    assert only(*runs).notes == ()
    runs.append(read_run(make_run(tmp_path, {10: 1.0, 20: 2.0}, task="walker-run")))
    runs.append(read_run(make_run(tmp_path, {}, seed=3)))
    assert only(*runs).notes == (
        "back_plan has no evaluation of some seeds: cup-catch 3; walker-run 2, 3",
        "back_plan has seeds that are not at their end: walker-run 1 (20 of 30)",
    )
    assert only(*runs, drop_short=True).tasks == ["cup-catch"]


def test_seeds_with_other_settings_are_named(tmp_path: Path) -> None:
    runs = [read_run(make_run(tmp_path, WHOLE, seed=seed, threads=seed)) for seed in (1, 2)]
    assert only(*runs).notes == ()
    other = read_run(make_run(tmp_path, WHOLE, seed=3, lr=0.5))
    assert only(*runs, other).notes == ("back_plan mixes settings: cup-catch: lr",)


def test_mixed_versions_are_one_sentence(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    made = {"python": "3.11", "git_commit": "a", "versions": {"torch": "2"}}
    runs = [read_run(make_run(tmp_path, WHOLE, seed=seed, provenance=made)) for seed in (1, 2)]
    runs.append(read_run(make_run(tmp_path, WHOLE, seed=3)))
    assert mixed_versions(runs) == []
    newer = {**made, "git_dirty": True, "versions": {"torch": "3"}}
    runs.append(read_run(make_run(tmp_path, WHOLE, seed=4, provenance=newer)))
    (sentence,) = mixed_versions(runs)
    assert "the versions of the commit, torch;" in sentence
