"""From run folders to files: pictures, and tables with the numbers that they show."""

from pathlib import Path

import pandas as pd
import pytest
from report_fakes import make_run

from difftori.report.folders import RunFolderError, find_runs
from difftori.report.pages import write_all
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
    paths = write_all(study(tmp_path / "logs"), out)
    kinds = ("curves", "aggregate", "profiles")
    names = {f"{kind}-{NAME}.{suffix}" for kind in kinds for suffix in ("png", "pdf", "csv")}
    names |= {f"returns-{NAME}.csv", f"returns-{NAME}.md", f"improvement-{NAME}.csv"}
    assert {path.name for path in paths} == names == {path.name for path in out.iterdir()}
    assert (out / f"curves-{NAME}.png").read_bytes()[:4] == b"\x89PNG"
    page = (out / f"returns-{NAME}.md").read_text()
    assert "| cup-catch | 30 | 500 [400, 600] | 250 [200, 300] |" in page
    assert "| back_plan | default | 30 | 2 | 4 | 4 | 1.00 [1.00, 1.00] |" in page
    assert "To know" not in page
    # the curves can be overlaid like published ones
    ours = read_published(out / f"curves-{NAME}.csv", ("back_plan",))
    assert ours.loc[ours["task"] == "cup-catch", "mean"].tolist() == [0, 250, 500]


def test_nothing_of_an_earlier_call_stays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    out, runs = tmp_path / "out", study(tmp_path / "logs")
    write_all(runs, out)
    paths = write_all({run: name for run, name in runs.items() if "default" in str(run)}, out)
    assert set(paths) == set(out.iterdir())
    write_all(runs, out, at=(40,))
    assert "no run was evaluated until 40 env steps" in caplog.text
    assert not (out / f"returns-{NAME}.csv").exists()


def test_tables_stand_at_the_steps_asked_for(tmp_path: Path) -> None:
    write_all(study(tmp_path / "logs"), tmp_path, at=(15, 20))
    table = pd.read_csv(tmp_path / f"returns-{NAME}.csv")
    ours = table[(table["method"] == "back_plan") & (table["task"] == "walker-run")]
    assert ours[["env_step", "value", "ci_low", "ci_high"]].to_numpy().tolist() == [
        [15, 125, 100, 150],
        [20, 250, 200, 300],
    ]
    assert pd.read_csv(tmp_path / f"improvement-{NAME}.csv")["env_step"].tolist() == [15, 20]


def test_a_step_that_no_run_came_to_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_all(study(tmp_path / "logs"), tmp_path / "out", at=(20, 40))
    assert [m.partition(": ")[2] for m in caplog.messages] == [
        "no run was evaluated until 40 env steps"
    ]


def test_a_cell_says_how_many_seeds_it_is_of_where_some_have_no_value(tmp_path: Path) -> None:
    for seed, rewards in ((1, {10: 1.0, 20: 5.0}), (2, {10: 3.0})):
        make_run(tmp_path / "logs", rewards, seed=seed)
    write_all(find_runs([f"{tmp_path}/logs"]), tmp_path, at=(10, 20))
    page = (tmp_path / f"returns-{NAME}.md").read_text()
    assert "| 10 | 2 [1, 3] |" in page
    assert "| 20 | 5 (1 of 2 seeds) |" in page


def test_labels_stand_in_the_order_that_they_were_given(tmp_path: Path) -> None:
    study(tmp_path / "logs")
    places = [
        f"{label}={tmp_path}/logs/*/state/{mode}"
        for label, mode in (("z", "default"), ("b", "back_plan"))
    ]
    write_all(find_runs(places), tmp_path)
    assert "| task | env_step | z | b |" in (tmp_path / f"returns-{NAME}.md").read_text()


def test_small_returns_keep_their_digits(tmp_path: Path) -> None:
    for task, reward in (("gym-a", 0.042), ("gym-b", 9349.1)):
        make_run(tmp_path / "logs", {30: reward}, task=task, suite="gymnasium")
    write_all(find_runs([str(tmp_path / "logs")]), tmp_path)
    page = (tmp_path / "returns-gymnasium-state.md").read_text()
    assert "| gym-a | 30 | 0.0420 |" in page
    assert "| gym-b | 30 | 9349 |" in page


def test_published_curves_stand_beside_the_runs(tmp_path: Path) -> None:
    path = tmp_path / "published.csv"
    path.write_text(
        "method,task,modality,env_step,mean,std\nA,cup-catch,state,10,100,5\n"
        "A,cup-catch,state,50,500,5\nA,walker-run,state,10,100,\nA,walker-run,state,50,900,\n"
        "B,cup-catch,pixels,10,1,\n"
    )
    write_all(study(tmp_path / "logs"), tmp_path, published=path)
    page = (tmp_path / f"returns-{NAME}.md").read_text()
    assert "| task | env_step | back_plan | default | A (published) |" in page
    assert "| cup-catch | 30 | 500 [400, 600] | 250 [200, 300] | 300 |" in page
    assert "A (published)" in set(pd.read_csv(tmp_path / f"aggregate-{NAME}.csv")["method"])


def test_a_run_that_goes_on_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folders = study(tmp_path / "logs", short=2)
    write_all(folders, tmp_path)
    note = "default: seeds are missing or not at their end: cup-catch 2; walker-run 2"
    assert note in caplog.text
    page = (tmp_path / f"returns-{NAME}.md").read_text()
    assert note in page
    assert "| cup-catch | 20 | 250 [200, 300] | 125 [100, 150] |" in page
    for options, cell in (({"at": (30,)}, "200 (1 of 2 seeds)"), ({"drop_short": True}, "200")):
        write_all(folders, tmp_path, **options)
        page = (tmp_path / f"returns-{NAME}.md").read_text()
        assert f"| cup-catch | 30 | 500 [400, 600] | {cell} |" in page


def test_runs_that_cannot_be_read_are_told_and_the_others_drawn(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good, bad = make_run(tmp_path, {10: 1.0}), make_run(tmp_path, {10: 1.0}, seed=2)
    (bad / "config.yaml").write_text("task: [")
    paths = write_all({good: "", bad: ""}, tmp_path / "out")
    # one run is no profile, one task no aggregate
    assert {path.name.partition("-")[0] for path in paths} == {"curves", "returns"}
    assert str(bad) in caplog.text
    with pytest.raises(RunFolderError, match="none of these runs can be read"):
        write_all({bad: ""}, tmp_path)


def test_nothing_to_draw_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="none of these runs has an evaluation"):
        write_all({make_run(tmp_path, {}): ""}, tmp_path)
