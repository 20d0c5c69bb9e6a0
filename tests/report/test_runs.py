"""Run folders are found and read as they are, also while a process writes to them."""

import json
from pathlib import Path

import pytest
from report_fakes import make_run

from difftori.report.folders import RunFolderError, find_runs, last_record
from difftori.report.runs import read_run


def test_folders_globs_and_parents_lead_to_the_same_runs_once(tmp_path: Path) -> None:
    folders = {str(make_run(tmp_path, {10: 1.0}, seed=seed)) for seed in (1, 2)}
    parent = f"{tmp_path}/cup-catch"
    for places in (
        [parent],
        [f"{tmp_path}/*/state/*/default/[12]"],
        [str(tmp_path), parent, *folders],
        [parent, f"{tmp_path}/cup-catch/../cup-catch"],
    ):
        assert {str(folder) for folder in find_runs(places)} == folders


def test_labels_name_arms(tmp_path: Path) -> None:
    one, two = (make_run(tmp_path, {10: 1.0}, seed=seed) for seed in (1, 2))
    labelled = make_run(tmp_path / "a=b", {10: 1.0})
    for places in ([f"{tmp_path}/cup-catch", f"fast arm={tmp_path}/*/*/*/*/2"],) * 2:
        assert find_runs(places) == {one: "", two: "fast arm"}
        places.reverse()
    assert find_runs([f"{tmp_path}/a=b"]) == {labelled: ""}
    with pytest.raises(RunFolderError, match="labels that begin with _"):
        find_runs([f"_hidden={one}"])


def test_files_of_trackers_inside_a_run_are_not_runs(tmp_path: Path) -> None:
    folder = make_run(tmp_path, {10: 1.0})
    for inner in ("wandb/offline-run-1/files", ".overwritten"):
        (folder / inner).mkdir(parents=True)
        for name in ("config.yaml", "metrics.jsonl"):
            (folder / inner / name).touch()
    assert list(find_runs([str(tmp_path)])) == [folder]


@pytest.mark.parametrize(
    ("place", "complaint"),
    [("nowhere", "nowhere: no such folder"), ("", "holds no run"), ("README.md", "holds no run")],
)
def test_a_place_without_runs_is_named(tmp_path: Path, place: str, complaint: str) -> None:
    (tmp_path / "README.md").touch()
    with pytest.raises(RunFolderError, match=complaint):
        find_runs([str(tmp_path / place)])


def test_a_run_is_read_in_order_of_its_steps(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path, {20: 2.0, 10: 1.0, 30: 3.0}), "label")
    assert run.evaluations["episode_reward"].tolist() == [1, 2, 3]
    assert (run.label, run.evaluated_until, run.is_short) == ("label", 30, False)


def test_an_evaluation_stands_at_the_step_for_which_it_was_due(tmp_path: Path) -> None:
    """It takes place when the episode in hand is over, in each seed at another step."""
    run = read_run(make_run(tmp_path, {13: 1.0, 20: 2.0, 34: 3.0}))
    assert run.evaluations["env_step"].tolist() == [10, 20, 30]


def test_half_a_line_is_not_a_number(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path, {10: 100.0}, tail="20,81"))
    assert (run.evaluated_until, run.is_short) == (10, True)


@pytest.mark.parametrize("text", [None, "", "env_ste", "env_step,episode_reward,episode_success\n"])
def test_a_run_without_evaluations_is_a_run(tmp_path: Path, text: str | None) -> None:
    folder = make_run(tmp_path, {})
    (folder / "eval.csv").unlink()
    if text is not None:
        (folder / "eval.csv").write_text(text)
    run = read_run(folder)
    assert (run.evaluated_until, run.is_short) == (0, True)


def test_rows_without_a_finite_return_are_left_out(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path, {10: "nan", 20: "", 30: 5.0, 40: "inf"}))
    assert run.evaluations["env_step"].tolist() == [30]


def test_the_last_evaluation_is_due_at_the_last_multiple(tmp_path: Path) -> None:
    assert not read_run(make_run(tmp_path, {20: 1.0}, train_steps=29)).is_short


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("config.yaml", "task: [", "config.yaml"),
        ("config.yaml", "task: cup-catch", "lacks modality"),
        ("eval.csv", "env_step,episode_reward,episode_success\n1,x,\n", "eval.csv cannot be read"),
    ],
)
def test_files_that_describe_no_run_are_named(
    tmp_path: Path, name: str, text: str, complaint: str
) -> None:
    folder = make_run(tmp_path, {10: 1.0})
    (folder / name).write_text(text)
    with pytest.raises(RunFolderError, match=complaint) as raised:
        read_run(folder)
    assert "\n" not in str(raised.value)


def test_the_latest_session_says_what_a_run_was_made_with(tmp_path: Path) -> None:
    sessions = [
        {"git_commit": commit, "python": "3", "versions": {"x": "1"}} for commit in ("a", "b")
    ]
    folder = make_run(tmp_path, {10: 1.0}, provenance={"sessions": sessions})
    made_with = read_run(folder).made_with
    assert (made_with["commit"], made_with["x"]) == ("b", "1")
    (folder / "provenance.json").write_text('{"versions": {"tor')
    assert read_run(folder).made_with == {}


def test_the_last_record_is_the_last_whole_one(tmp_path: Path) -> None:
    lines = [{"category": "eval", "env_step": 1}, {"category": "train", "env_step": 2}]
    spoiled = b"\n\0\nnull\n{}\n\xff\n"  # lines after each
    text = b"".join(json.dumps(line).encode() + spoiled for line in lines)
    (tmp_path / "metrics.jsonl").write_bytes(text + b'{"category": "ev')
    assert last_record(tmp_path) == lines[1]
    assert last_record(tmp_path, "eval") == lines[0]
    assert last_record(tmp_path / "nowhere") == {}
