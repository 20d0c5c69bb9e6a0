"""Runs are sorted into curves; scores and labels follow from the runs themselves."""

from pathlib import Path

from report_fakes import make_run

from difftori.report.runs import read_run
from difftori.report.sheets import Cell, Method, sheets_of


def test_suites_and_modalities_are_apart(tmp_path: Path) -> None:
    folders = [
        make_run(tmp_path, {10: 1.0}),
        make_run(tmp_path, {10: 1.0}, modality="pixels"),
        make_run(tmp_path, {10: 1.0}, task="mw-reach", suite="metaworld"),
    ]
    sheets, told = sheets_of([read_run(folder) for folder in folders])
    assert [s.name for s in sheets] == ["dmcontrol-pixels", "dmcontrol-state", "metaworld-state"]
    assert told == []


def test_of_two_folders_of_a_seed_the_further_one_is_used(tmp_path: Path) -> None:
    short = read_run(make_run(tmp_path / "a", {10: 1.0}))
    long = read_run(make_run(tmp_path / "b", {10: 1.0, 20: 2.0}))
    (sheet,), told = sheets_of([short, long])
    cell = Cell(Method("back_plan", "default"), "cup-catch")
    assert sheet.cells[cell] == {1: long}
    assert f"{long.folder} is used" in told[0]


def test_labels_hold_what_differs(tmp_path: Path) -> None:
    one, two = Method("back_plan", "a"), Method("back_plan", "b")
    three = Method("default", "a")

    def labels(*methods: Method) -> list[str]:
        root = tmp_path / str(len(list(tmp_path.iterdir())))
        runs = [
            read_run(make_run(root, {10: 1.0}, mode=method.mode, exp_name=method.exp_name))
            for method in methods
        ]
        (sheet,), _ = sheets_of(runs)
        return [sheet.label(method) for method in sheet.methods]

    assert labels(one) == ["back_plan"]
    assert labels(one, two) == ["a", "b"]
    assert labels(one, three) == ["back_plan", "default"]
    assert labels(one, two, three) == ["back_plan/a", "back_plan/b", "default/a"]


def test_the_largest_return_follows_the_episodes_length(tmp_path: Path) -> None:
    folders = [
        make_run(tmp_path, {10: 1.0}, task="walker-run"),
        make_run(tmp_path, {10: 1.0}, episode_length=128),
    ]
    (sheet,), _ = sheets_of([read_run(folder) for folder in folders])
    assert sheet.maximum("walker-run") == 1000
    assert sheet.maximum("cup-catch") == 128


def test_meta_world_counts_success_where_it_was_logged(tmp_path: Path) -> None:
    told = make_run(tmp_path / "a", {10: "25.0,0.5\n20,30.0"}, suite="metaworld")
    (sheet,), _ = sheets_of([read_run(told)])
    assert sheet.score.label == "Success rate"
    (cell,) = sheet.cells
    assert sheet.series(cell)[1].scores.tolist() == [0.5]
    untold = make_run(tmp_path / "b", {10: 25.0}, suite="metaworld")
    (sheet,), _ = sheets_of([read_run(untold)])
    assert sheet.score.label == "Episode return"
    assert sheet.maximum("cup-catch") is None
