"""Where runs stand, told from folders in every state that they can be found in."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from difftori.checkpoints.lock import run_lock
from difftori.report.folders import walk_runs
from difftori.report.run_state import listed_slurm_jobs, read_state
from difftori.report.run_table import show

ROOT = Path(__file__).resolve().parents[2]
KEY = {"task": "cup-catch", "modality": "state", "mode": "default", "exp_name": "default"}


def make_run(place: Path, seed: int = 1, records: int = 2, **status: Any) -> Path:
    """A run folder of ``records`` episodes of 100 env steps and 10 seconds each, of 1000 steps."""
    folder = place / "cup-catch" / "state" / "default" / "default" / str(seed)
    (folder / "checkpoints").mkdir(parents=True)
    config = {**KEY, "seed": seed, "train_steps": 1000}
    (folder / "config.yaml").write_text(json.dumps(config))
    lines = [
        {
            "category": "train",
            "env_step": 100 * n,
            "episode_reward": n,
            "elapsed_seconds": 10 * n,
            "updates": 100,
        }
        for n in range(1, records + 1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if status:
        (folder / "status.json").write_text(json.dumps(status))
    return folder


def test_a_run_that_goes_on(tmp_path: Path) -> None:
    folder = make_run(tmp_path, records=4, state="running", env_step=0)
    with run_lock(folder):
        run = read_state(folder)
    assert (run.state, run.env_step, run.train_steps, run.last_return) == ("running", 400, 1000, 4)
    assert run.left_seconds == 60


def test_acting_at_random_tells_no_time_left(tmp_path: Path) -> None:
    folder = make_run(tmp_path, records=0, state="running", env_step=0)
    with run_lock(folder), (folder / "metrics.jsonl").open("a") as metrics:
        for step, seconds, updates in ((100, 1, 0), (200, 10, 100), (300, 20, 100)):
            assert read_state(folder).left_seconds is None
            record = {"category": "train", "env_step": step, "updates": updates}
            print(json.dumps({**record, "elapsed_seconds": seconds}), file=metrics, flush=True)
        assert read_state(folder).left_seconds == 70


def test_seeds_are_listed_by_number(tmp_path: Path) -> None:
    for seed in (21, 3, 100):
        make_run(tmp_path, seed=seed)
    assert [folder.name for folder in walk_runs(tmp_path)] == ["3", "21", "100"]


def test_half_a_line_is_not_read(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"category": "train", "env_step": 300, "episode_rew')
    run = read_state(folder)
    assert (run.env_step, run.last_return) == (200, 2)


def test_a_killed_run_is_not_running(tmp_path: Path) -> None:
    folder = make_run(tmp_path, state="running", pid=77, host="here")
    run = read_state(folder)
    assert run.state == "failed"
    assert "killed: process 77 on here is gone" in run.reason
    assert run.left_seconds is None


@pytest.mark.parametrize(
    ("status", "state", "reason"),
    [
        ({"state": "done"}, "done", ""),
        ({"state": "failed", "reason": "NaN"}, "failed", "NaN"),
        ({"state": "stopped", "reason": "by SIGINT"}, "stopped", "by SIGINT"),
        ({}, "stopped", "status.json cannot be read"),
    ],
)
def test_what_the_run_said_last(
    tmp_path: Path, status: dict[str, Any], state: str, reason: str
) -> None:
    run = read_state(make_run(tmp_path, **status))
    assert (run.state, run.reason) == (state, reason)


def test_a_run_that_waits_in_slurm(tmp_path: Path) -> None:
    folder = make_run(tmp_path, state="stopped", reason="by SIGUSR2", slurm_job="7_1")
    assert read_state(folder, {"7_1": "PENDING"}).state == "waiting"
    assert read_state(folder, {"7_2": "PENDING"}).state == "stopped"
    assert read_state(folder).state == "stopped"


def test_a_run_that_has_not_begun(tmp_path: Path) -> None:
    folder = tmp_path / "cup-catch" / "state" / "default" / "default" / "3"
    folder.mkdir(parents=True)
    here = {"pid": os.getpid(), "host": socket.gethostname()}
    note: dict[str, Any] = {**here, "slurm_job": None, "train_steps": 500}
    (folder / ".queued").write_text(json.dumps(note))
    assert list(walk_runs(tmp_path)) == [folder]
    run = read_state(folder)
    assert (run.state, run.train_steps, run.env_step) == ("waiting", 500, 0)
    (folder / ".queued").write_text(json.dumps({**note, "pid": 2**30}))
    assert (read_state(folder).state, read_state(folder).reason) == (
        "stopped",
        "before it began",
    )
    (folder / ".queued").write_text(json.dumps({**note, "slurm_job": "8_0"}))
    assert read_state(folder, {"8_0": "PENDING"}).state == "waiting"
    assert read_state(folder, {"8_0": "RUNNING"}).state == "running"
    assert read_state(folder, {}).state == "stopped"
    run = read_state(folder, None)
    assert (run.state, run.reason) == (
        "waiting",
        "Slurm job 8_0, if it is there still: squeue does not answer",
    )


def test_runs_are_found_and_nothing_else(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / "logs", seed=seed) for seed in (1, 2)]
    (folders[0] / "wandb" / "files").mkdir(parents=True)
    (folders[0] / "wandb" / "files" / "status.json").touch()
    (tmp_path / "logs" / "multirun").mkdir()
    (tmp_path / "logs" / "multirun" / "multirun.yaml").touch()
    assert list(walk_runs(tmp_path / "logs")) == folders
    assert list(walk_runs(folders[1])) == [folders[1]]


def test_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path, seed=1, state="done")
    make_run(tmp_path, seed=2, state="failed", reason="a weight is not finite; " + 9 * "no, ")
    show([read_state(folder) for folder in walk_runs(tmp_path)], tmp_path)
    header, first, second, totals = capsys.readouterr().out.splitlines()
    assert header.split() == ["run", "state", "env", "steps", "return", "left", "why"]
    assert first.split() == ["cup-catch/state/default/default/1", "done", "200/1,000", "2"]
    assert second.rstrip().endswith("a weight is not finite; no, no, no, no, no, no, no, no, no,")
    assert totals == "runs: 1 failed, 1 done"


def test_slurm_that_cannot_be_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert listed_slurm_jobs() is None
    squeue = tmp_path / "squeue"
    squeue.write_text("#!/bin/sh\necho 7_1 RUNNING\necho 7_2 PENDING\n")
    squeue.chmod(0o755)
    assert listed_slurm_jobs() == {"7_1": "RUNNING", "7_2": "PENDING"}
    squeue.write_text("#!/bin/sh\nexit 1\n")
    assert listed_slurm_jobs() is None


def ask(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "src" / "status.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command(tmp_path: Path) -> None:
    make_run(tmp_path, state="done")
    done = ask(tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    (run,) = json.loads(done.stdout)
    assert (run["state"], run["env_step"], run["left_seconds"]) == ("done", 200, None)
    assert ask(tmp_path).stdout.splitlines()[-1] == "runs: 1 done"


def test_the_command_where_there_is_nothing(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "nowhere"):
        done = ask(place)
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert str(place) in line


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("status.json", '{"state": "odd"}'),
        ("status.json", '{"state": "running"}'),
        (".queued", '{"pid": 1}'),
        ("config.yaml", "train_steps: abc"),
    ],
)
def test_a_run_whose_files_hold_something_else_is_one_line(
    tmp_path: Path, file: str, text: str
) -> None:
    folder = make_run(tmp_path)
    (folder / file).write_text(text)
    run = read_state(folder)
    assert (run.state, run.reason[:25]) == ("failed", "its files cannot be read:")
    show([run], tmp_path)
