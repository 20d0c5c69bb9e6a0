"""From run folders to files: pictures, and tables with the numbers that they show."""

from pathlib import Path

import pandas as pd
import pytest
from report_fakes import make_run

from difftori.report.folders import RunFolderError, find_runs
from difftori.report.pages import Request, write_all
from difftori.report.published import read_published

NAME = "dmcontrol-state"


def study(root: Path, short: int | None = None) -> dict[Path, str]:
    """Two tasks, two modes, two seeds; the returns of ``back_plan`` are 400 and 600 at the end."""
    for task in ("cup-catch", "walker-run"):
        for mode, gain in (("back_plan", 1.0), ("default", 0.5)):
            for seed in (1, 2):
                end = gain * (200 + 200 * seed)
                rewards = {10: 0.0, 20: end / 2, 30: end}
                if short == seed and mode == "default":
                    del rewards[30]
                make_run(root, rewards, task=task, mode=mode, seed=seed)
    return find_runs([str(root)])


def test_each_picture_has_its_numbers(tmp_path: Path) -> None:
    out = tmp_path / "out"
    paths = write_all(Request(study(tmp_path / "logs"), out))
    kinds = ("curves", "aggregate", "profiles")
    names = {f"{kind}-{NAME}.{suffix}" for kind in kinds for suffix in ("png", "pdf", "csv")}
    names |= {f"returns-{NAME}.csv", f"returns-{NAME}.md", f"improvement-{NAME}.csv"}
    assert {path.name for path in paths} == names == {path.name for path in out.iterdir()}
    assert (out / f"curves-{NAME}.png").read_bytes()[:4] == b"\x89PNG"
    page = (out / f"returns-{NAME}.md").read_text()
    assert "| cup-catch | 30 | 500 [400, 600] | 250 [200, 300] |" in page
    assert "| back_plan | default | 30 | 2 | 4, 4 | 1.00 [1.00, 1.00] |" in page
    assert "To know" not in page
    # the curves can be overlaid like published ones
    ours = read_published(out / f"curves-{NAME}.csv", ("back_plan",))
    assert ours.loc[ours["task"] == "cup-catch", "mean"].tolist() == [0, 250, 500]
    assert set(ours["n_seeds"]) == {"2"}


def test_tables_stand_at_the_steps_asked_for(tmp_path: Path) -> None:
    write_all(Request(study(tmp_path / "logs"), tmp_path, at=(15, 20)))
    table = pd.read_csv(tmp_path / f"returns-{NAME}.csv")
    ours = table[(table["method"] == "back_plan") & (table["task"] == "walker-run")]
    assert ours[["env_step", "value", "ci_low", "ci_high"]].to_numpy().tolist() == [
        [15, 125, 100, 150],
        [20, 250, 200, 300],
    ]
    assert pd.read_csv(tmp_path / f"improvement-{NAME}.csv")["env_step"].tolist() == [15, 20]


def test_published_curves_stand_in_the_tables(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "published.csv"
    path.write_text(
        "method,task,modality,env_step,mean,std\nA,cup-catch,state,10,100,5\n"
        "A,cup-catch,state,50,500,5\nA,walker-run,state,10,100,\nA,walker-run,state,50,900,\n"
        "B,cup-catch,pixels,10,1,\n"
    )
    folders = study(tmp_path / "logs")
    write_all(Request(folders, tmp_path, published=path))
    page = (tmp_path / f"returns-{NAME}.md").read_text()
    assert "| task | env steps | back_plan | default | A |" in page
    assert "| cup-catch | 30 | 500 [400, 600] | 250 [200, 300] | 300 ± 5 |" in page
    assert "| walker-run | 30 | 500 [400, 600] | 250 [200, 300] | 500 |" in page
    over_tasks = pd.read_csv(tmp_path / f"aggregate-{NAME}.csv")
    assert "A" in set(over_tasks["method"])
    assert not caplog.records
    write_all(Request(folders, tmp_path, published=path, until=9_000, published_methods=["B"]))
    assert "no published curve of these tasks begins within 9,000 env steps" in caplog.text


def test_a_run_that_goes_on_ends_its_group_and_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folders = study(tmp_path / "logs", short=2)
    (growing,) = (folder for folder in folders if folder.match("cup-catch/*/default/default/2"))
    with (growing / "eval.csv").open("a") as file:
        file.write("30,9")
    write_all(Request(folders, tmp_path))
    note = "default has seeds that are not at their end: cup-catch 2 (20 of 30); walker-run 2"
    assert note in caplog.text
    assert "the aggregate of default ends at 20 env steps: a run ends there" in caplog.text
    page = (tmp_path / f"returns-{NAME}.md").read_text()
    assert note in page
    assert "| cup-catch | 20 | 250 [200, 300] | 125 [100, 150] |" in page
    write_all(Request(folders, tmp_path, at=(30,)))
    page = (tmp_path / f"returns-{NAME}.md").read_text()
    assert "| cup-catch | 30 | 500 [400, 600] | 200 (1 seed only) |" in page
    write_all(Request(folders, tmp_path, drop_short=True))
    assert "| 500 [400, 600] | 200 |" in (tmp_path / f"returns-{NAME}.md").read_text()


def test_what_an_aggregate_leaves_out_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    study(tmp_path / "logs")
    for task in ("cup-catch", "walker-run", "acrobot-swingup"):
        make_run(tmp_path / "more", {10: 1.0}, task=task, mode="default")
    make_run(tmp_path / "one", {10: 1.0}, mode="theseus_forward")
    folders = find_runs([f"{tmp_path}/logs", f"three={tmp_path}/more", f"one={tmp_path}/one"])
    write_all(Request(folders, tmp_path / "out"))
    assert "leaves out one, back_plan, default: no value on all its tasks" in caplog.text
    caplog.clear()
    folders = {folder: label for folder, label in folders.items() if label != "one"}
    write_all(Request(folders, tmp_path / "out"))
    assert "leaves out acrobot-swingup: not every method has them" in caplog.text


def test_runs_that_cannot_be_read_are_told_and_the_others_drawn(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good, bad = make_run(tmp_path, {10: 1.0}), make_run(tmp_path, {10: 1.0}, seed=2)
    (bad / "config.yaml").write_text("task: [")
    paths = write_all(Request({good: "", bad: ""}, tmp_path / "out"))
    # one run is no profile, one task no aggregate
    assert {path.name.partition("-")[0] for path in paths} == {"curves", "returns"}
    assert str(bad) in caplog.text


def test_nothing_to_draw_is_an_error_that_says_why(tmp_path: Path) -> None:
    folders = {make_run(tmp_path, {}): ""}
    with pytest.raises(RunFolderError, match="none of these runs has an evaluation yet"):
        write_all(Request(folders, tmp_path))
    folders[make_run(tmp_path, {10: 1.0, 20: 1.0}, seed=2)] = ""
    for asked in ({"until": 9}, {"drop_short": True}):
        with pytest.raises(RunFolderError, match="that --until and --drop-short leave in"):
            write_all(Request(folders, tmp_path, **asked))
