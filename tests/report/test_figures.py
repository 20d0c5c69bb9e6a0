"""Whole pages: pictures, and tables with the numbers that the pictures show."""

import csv
from pathlib import Path

import pytest
from report_fakes import make_run

from difftori.report.figures import Request, make
from difftori.report.published import read_published
from difftori.report.runs import RunFolderError, find_run_folders

PUBLISHED = "method,task,modality,env_step,mean,std\n"


def study(root: Path, short: int | None = None) -> list[Path]:
    """Two tasks, two modes, two seeds; the returns of ``back_plan`` are 400 and 600 at the end."""
    for task in ("cup-catch", "walker-run"):
        for mode, gain in (("back_plan", 1.0), ("default", 0.5)):
            for seed in (1, 2):
                end = gain * (200 + 200 * seed)
                rewards = {10: 0.0, 20: end / 2, 30: end}
                if short == seed and mode == "default":
                    del rewards[30]
                make_run(root, rewards, task=task, mode=mode, seed=seed)
    return find_run_folders([root])


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_each_picture_has_its_tables(tmp_path: Path) -> None:
    paths = make(Request(study(tmp_path / "logs"), tmp_path / "out"))
    kinds = ("curves", "aggregate", "profiles")
    suffixes = ("png", "pdf", "csv", "md")
    names = {f"{kind}-dmcontrol-state.{suffix}" for kind in kinds for suffix in suffixes}
    assert {path.name for path in paths} == names
    for path in paths:
        assert path.stat().st_size > 100
    assert (tmp_path / "out/curves-dmcontrol-state.png").read_bytes()[:4] == b"\x89PNG"

    last = rows(tmp_path / "out/curves-dmcontrol-state.csv")[2]
    assert (last["method"], last["task"], last["env_step"]) == (
        "back_plan/default",
        "cup-catch",
        "30",
    )
    assert [float(last[name]) for name in ("value", "ci_low", "ci_high")] == [500, 400, 600]
    table = (tmp_path / "out/curves-dmcontrol-state.md").read_text()
    assert "| cup-catch | 30 | 500 [400, 600] | 250 [200, 300] |" in table

    ends = [row for row in rows(tmp_path / "out/aggregate-dmcontrol-state.csv")
            if row["env_step"] == "30"]  # fmt: skip
    assert [(row["method"], row["n_tasks"], row["value"]) for row in ends] == [
        ("back_plan", "2", "0.5"),
        ("default", "2", "0.25"),
    ]
    profile = rows(tmp_path / "out/profiles-dmcontrol-state.csv")
    shares = {row["threshold"]: row["share"] for row in profile if row["method"] == "back_plan"}
    assert (shares["0.39"], shares["0.40"], shares["0.60"]) == ("1", "0.5", "0")

    # and can be overlaid like a published one
    curves, problems = read_published(tmp_path / "out/curves-dmcontrol-state.csv")
    assert problems == []
    key = min(curves)
    assert key == ("back_plan/default", "cup-catch", "state")
    assert curves[key].mean.scores.tolist() == [0, 250, 500]
    assert curves[key].seeds == "2"


def test_published_curves_stand_in_picture_and_tables(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "published.csv"
    path.write_text(
        f"{PUBLISHED}A,cup-catch,state,10,100,5\nA,cup-catch,state,50,500,5\n"
        "A,walker-run,state,10,100,\nA,walker-run,state,50,900,\nB,cup-catch,pixels,10,1,\n"
    )
    make(Request(study(tmp_path / "logs"), tmp_path / "out", published=path))
    table = (tmp_path / "out/curves-dmcontrol-state.md").read_text()
    assert "| method | cup-catch at 30 | walker-run at 30 |" in table
    assert "| back_plan | 500 [400, 600] | 500 [400, 600] |" in table
    assert "| A | 300 ± 5 | 500 |" in table
    assert (
        "| A | published | 30 | 0.400 |"
        in (tmp_path / "out/aggregate-dmcontrol-state.md").read_text()
    )
    assert " B " not in table
    assert "published" not in capsys.readouterr().err


def test_published_curves_beyond_the_axes_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "published.csv"
    path.write_text(f"{PUBLISHED}A,cup-catch,state,100,100,5\n")
    make(Request(study(tmp_path / "logs"), tmp_path / "out", published=path))
    assert "begin at 100 env steps" in capsys.readouterr().err


def test_published_curves_that_a_picture_shows_badly_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "published.csv"
    tasks = ("cup-catch", "walker-run")
    path.write_text(
        PUBLISHED + "".join(f"A,{task},state,10,90,\nB,{task},state,31,9,\n" for task in tasks)
    )
    folders = [make_run(tmp_path, {30: 1.0}, task=task, episode_length=32) for task in tasks]
    make(Request(folders, tmp_path / "out", published=path))
    told = capsys.readouterr().err
    assert "begin after 30 env steps, so that nothing of them is drawn: B\n" in told
    assert "larger than these runs can reach, so episodes or units differ: cup-catch, w" in told


def test_a_run_in_progress_ends_its_group_and_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = study(tmp_path / "logs", short=2)
    with (
        next(f for f in folders if f.match("default/default/2"))
        .joinpath("eval.csv")
        .open("a") as file
    ):
        file.write("30,9")
    make(Request(folders, tmp_path / "out"))
    told = capsys.readouterr().err
    assert "half-written last lines are left out, of 1 run" in told
    assert "cup-catch state default/default: seed 2 is at 20 of 30 env steps" in told
    assert "the aggregate of default ends at 20 env steps, which all its runs reached; --d" in told
    theirs = [
        row
        for row in rows(tmp_path / "out/curves-dmcontrol-state.csv")
        if (row["task"], row["method"]) == ("cup-catch", "default/default")
    ]
    assert [(row["n_seeds"], row["all_seeds"], row["value"]) for row in theirs] == [
        ("2", "true", "0"),
        ("2", "true", "125"),
        ("1", "false", "200"),
    ]
    assert theirs[2]["ci_low"] == ""


def test_unknown_versions_are_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(Request(study(tmp_path / "logs"), tmp_path / "out"))
    sentence = "these runs were made before runs recorded their versions"
    assert capsys.readouterr().err.count(sentence) == 1
    pages = {path.name: path.read_text().count(sentence) for path in tmp_path.glob("out/*.md")}
    assert pages == {
        "curves-dmcontrol-state.md": 1,
        "aggregate-dmcontrol-state.md": 0,
        "profiles-dmcontrol-state.md": 0,
    }


@pytest.mark.parametrize("short", [False, True])
def test_leaving_out_short_seeds_is_advised_only_where_it_helps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], short: bool
) -> None:
    """Not where a task's whole runs end first, be there a short seed of the longer task or not."""
    make_run(tmp_path, {10: 1.0, 20: 2.0}, train_steps=20)
    make_run(tmp_path, {10: 1.0, 20: 2.0, 30: 3.0}, task="walker-run")
    if short:
        make_run(tmp_path, {10: 1.0, 20: 2.0}, task="walker-run", seed=2)
    make(Request(find_run_folders([tmp_path]), tmp_path / "out"))
    assert "ends at 20 env steps, which all its runs reached\n" in capsys.readouterr().err


def test_short_seeds_can_be_left_out(tmp_path: Path) -> None:
    folders = study(tmp_path / "logs", short=2)
    make(Request(folders, tmp_path / "out", drop_short=True))
    last = rows(tmp_path / "out/curves-dmcontrol-state.csv")[-1]
    assert (last["env_step"], last["value"], last["n_seeds"]) == ("30", "200", "1")


def test_runs_that_cannot_be_read_are_told_and_the_others_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = make_run(tmp_path, {10: 1.0}), make_run(tmp_path, {10: 1.0}, seed=2)
    (bad / "config.yaml").write_text("task: [")
    paths = make(Request([good, bad], tmp_path / "out"))
    # one run is no profile, one task no aggregate
    assert {path.name.partition("-")[0] for path in paths} == {"curves"}
    assert f"{bad / 'config.yaml'} cannot be read" in capsys.readouterr().err


def test_runs_without_evaluations_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="none of these runs has an evaluation yet"):
        make(Request([make_run(tmp_path, {})], tmp_path / "out"))


def test_evaluations_that_were_asked_away_are_not_said_to_be_missing(tmp_path: Path) -> None:
    folder, out = make_run(tmp_path, {10: 1.0, 20: 1.0}), tmp_path / "out"
    with pytest.raises(RunFolderError, match="at or before 9 env steps; the first is at 10"):
        make(Request([folder], out, until=9))
    with pytest.raises(RunFolderError, match="--drop-short leaves out all"):
        make(Request([folder], out, drop_short=True))
