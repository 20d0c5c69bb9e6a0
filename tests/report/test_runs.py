"""Run folders are found and read as they are, also while a process writes to them."""

import json
from pathlib import Path

import pytest
from report_fakes import make_run

from difftori.report.runs import (
    RunFolderError,
    RunKey,
    find_run_folders,
    last_record,
    read_run,
)


def test_folders_globs_and_parents_lead_to_the_same_runs_once(tmp_path: Path) -> None:
    folders = {make_run(tmp_path, {10: 1.0}, seed=seed) for seed in (1, 2)}
    parent = tmp_path / "cup-catch"
    assert set(find_run_folders([parent])) == folders
    assert set(find_run_folders([f"{tmp_path}/*/state/*/default/[12]"])) == folders
    assert set(find_run_folders([tmp_path, parent, *folders])) == folders
    assert find_run_folders([f"{tmp_path}/**/1/eval.csv"]) == [min(folders)]


@pytest.mark.parametrize("name", ["eval.csv", "config.yaml"])
def test_a_file_of_a_run_means_that_run_alone(tmp_path: Path, name: str) -> None:
    folders = [make_run(tmp_path, {10: 1.0}, seed=seed) for seed in (1, 2)]
    assert find_run_folders([folders[0] / name]) == [folders[0]]


@pytest.mark.parametrize("name", ["README.md", "config.yaml"])
def test_another_file_does_not_mean_the_folder_around_it(tmp_path: Path, name: str) -> None:
    make_run(tmp_path, {10: 1.0})
    (tmp_path / name).touch()
    with pytest.raises(RunFolderError, match=f"{name} is no file of a run; give a run's folder"):
        find_run_folders([tmp_path / name])


def test_files_of_trackers_inside_a_run_are_not_runs(tmp_path: Path) -> None:
    folder = make_run(tmp_path, {10: 1.0})
    for inner in ("wandb/offline-run-1/files", ".overwritten"):
        (folder / inner).mkdir(parents=True)
        for name in ("config.yaml", "metrics.jsonl"):
            (folder / inner / name).touch()
    assert find_run_folders([tmp_path]) == [folder]


def test_a_place_without_runs_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="nowhere: no such folder"):
        find_run_folders([tmp_path / "nowhere"])
    with pytest.raises(RunFolderError, match="holds no run"):
        find_run_folders([tmp_path])


def test_a_run_is_read_from_its_own_config(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path, {20: 2.0, 10: 1.0, 30: 3.0}, seed=4))
    assert run.key == RunKey("cup-catch", "state", "back_plan", "default", 4)
    assert [(row.env_step, row.reward) for row in run.evaluations] == [(10, 1), (20, 2), (30, 3)]
    assert not run.is_short
    assert run.provenance is None
    assert run.problems == ()


def test_half_a_line_is_not_a_number(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path, {10: 100.0}, tail="20,81"))
    assert [row.env_step for row in run.evaluations] == [10]
    assert run.is_short
    assert run.half_written


def test_rows_without_a_finite_return_are_left_out_and_told(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path, {10: "nan", 20: "", 30: 5.0}, tail="what,is,this\n"))
    assert [row.env_step for row in run.evaluations] == [30]
    assert "3 rows" in run.problems[0]


def test_a_run_without_evaluations_is_a_run(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path, {}))
    assert run.evaluated_until == 0
    assert run.is_short


def test_the_last_evaluation_is_due_at_the_last_multiple(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path, {20: 1.0}, train_steps=29))
    assert run.last_eval_due == 20
    assert not run.is_short


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("task: [", "cannot be read"),
        ("- a list", "holds no keys"),
        ("task: cup-catch", "lacks modality"),
    ],
)
def test_a_config_that_describes_no_run_is_one_line(
    tmp_path: Path, text: str, complaint: str
) -> None:
    folder = make_run(tmp_path, {10: 1.0})
    (folder / "config.yaml").write_text(text)
    with pytest.raises(RunFolderError, match=complaint) as raised:
        read_run(folder)
    assert "\n" not in str(raised.value)


def test_a_length_that_is_no_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="eval_freq=0"):
        read_run(make_run(tmp_path, {}, eval_freq=0))


def test_provenance_is_read_or_its_fault_told(tmp_path: Path) -> None:
    record = {"versions": {"torch": "2"}, "git_commit": "abc", "git_dirty": True, "host": "h"}
    folder = make_run(tmp_path, {10: 1.0}, provenance=record)
    provenance = read_run(folder).provenance
    assert provenance is not None
    assert (provenance.versions, provenance.git_commit) == ({"torch": "2"}, "abc")
    assert provenance.git_dirty
    (folder / "provenance.json").write_text('{"versions": {"tor')
    run = read_run(folder)
    assert run.provenance is None
    assert "provenance.json cannot be read" in run.problems[0]


def test_the_last_record_is_the_last_whole_one(tmp_path: Path) -> None:
    lines = [{"category": "eval", "env_step": 1}, {"category": "train", "env_step": 2}]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text("x" * 70_000 + "\n" + text + '{"category": "ev')
    assert last_record(tmp_path) == lines[1]
    assert last_record(tmp_path, "eval") == lines[0]
    assert last_record(tmp_path / "nowhere") is None


def test_the_latest_session_of_a_run_says_where_it_comes_from(tmp_path: Path) -> None:
    folder = make_run(tmp_path, {10: 1.0})
    sessions = [{"git_commit": "a", "versions": {}}, {"git_commit": "b", "versions": {"x": "1"}}]
    (folder / "provenance.json").write_text(json.dumps({"sessions": sessions}))
    provenance = read_run(folder).provenance
    assert provenance is not None
    assert (provenance.git_commit, provenance.versions) == ("b", {"x": "1"})
