"""Readers hear of missing and short seeds, mixed settings, mixed versions."""

from pathlib import Path
from typing import Any

import pytest
from report_fakes import make_run

from difftori.report.checks import mixed_settings, mixed_versions, seed_notes
from difftori.report.runs import Run, read_run
from difftori.report.sheets import Sheet, sheets_of

WHOLE = {10: 1.0, 20: 2.0, 30: 3.0}


def sheet_of(*runs: Run) -> Sheet:
    (sheet,), _ = sheets_of(runs)
    return sheet


def test_whole_seeds_need_no_note(tmp_path: Path) -> None:
    runs = [read_run(make_run(tmp_path, WHOLE, seed=seed)) for seed in (1, 2)]
    assert seed_notes(sheet_of(*runs), None) == []


def test_a_seed_of_another_task_is_missed(tmp_path: Path) -> None:
    runs = [read_run(make_run(tmp_path, WHOLE, seed=seed)) for seed in (1, 2)]
    runs.append(read_run(make_run(tmp_path, WHOLE, task="walker-run")))
    assert seed_notes(sheet_of(*runs), None) == [
        "walker-run state back_plan/default: no evaluation of seed 2"
    ]


def test_seeds_that_are_expected_are_missed(tmp_path: Path) -> None:
    sheet = sheet_of(read_run(make_run(tmp_path, WHOLE)), read_run(make_run(tmp_path, {}, seed=2)))
    (note,) = seed_notes(sheet, (1, 2, 3))
    assert note.endswith("no evaluation of seeds 2, 3")


def test_a_short_seed_is_named(tmp_path: Path) -> None:
    (note,) = seed_notes(sheet_of(read_run(make_run(tmp_path, {10: 1.0, 20: 2.0}))), None)
    assert note.endswith("seed 1 is at 20 of 30 env steps")


def test_seeds_with_other_settings_are_named(tmp_path: Path) -> None:
    runs = [read_run(make_run(tmp_path, WHOLE, seed=seed, threads=seed)) for seed in (1, 2)]
    assert mixed_settings(sheet_of(*runs)) == []
    other = read_run(make_run(tmp_path, WHOLE, seed=3, lr=0.5))
    assert mixed_settings(sheet_of(*runs, other)) == [
        "cup-catch state back_plan/default mixes settings: lr 0.001 (seeds 1, 2), 0.5 (seed 3)"
    ]


def provenance(**changes: Any) -> dict[str, Any]:
    return {
        **{"command": ["python"], "python": "3.11.9", "git_commit": "a" * 40, "git_dirty": False},
        **{"versions": {"torch": "2.13.0"}, "host": "here"},
        **changes,
    }


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (provenance(host="there"), []),
        (
            provenance(versions={"torch": "2.9.0"}),
            ["the runs mix versions of torch: 2.13.0 (1 run), 2.9.0 (1 run)"],
        ),
        (
            provenance(git_commit="b" * 40),
            ["the runs mix versions of git commit: aaaaaaaaaa (1 run), bbbbbbbbbb (1 run)"],
        ),
        (
            provenance(git_dirty=True),
            ["1 run had uncommitted changes; see their provenance.diff"],
        ),
        (None, ["the versions of 1 of 2 runs are unknown, for example of "]),
    ],
)
def test_mixed_versions_are_told(tmp_path: Path, other: Any, told: list[str]) -> None:
    first = read_run(make_run(tmp_path, WHOLE, provenance=provenance()))
    second = read_run(make_run(tmp_path, WHOLE, seed=2, provenance=other))
    notes = mixed_versions([first, second])
    assert len(notes) == len(told)
    assert all(note.startswith(start) for note, start in zip(notes, told, strict=True))
