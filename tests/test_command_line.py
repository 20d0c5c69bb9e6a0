"""The commands as a user types them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from difftori.config import ConfigError
from difftori.process import quietly_interruptible
from runs import run_debug

ROOT = Path(__file__).resolve().parents[1]


def run(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, f"src/{script}", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_hydras_own_options_may_have_values_of_their_own() -> None:
    shown = run("train.py", "--cfg", "job", "seed=7")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith("seed: 7\n")


def test_letters_that_the_outputs_encoding_lacks_are_spelled_out() -> None:
    shown = run("plot.py", "--help", PYTHONIOENCODING="ascii")
    assert shown.returncode == 0, shown.stderr
    assert "\\u2026" in shown.stdout


def test_a_run_is_trained_scored_and_filmed(tmp_path: Path) -> None:
    done = run("train.py", "preset=debug", "seed=3", f"log_dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    folder = tmp_path / "cartpole-swingup" / "state" / "back_plan" / "default" / "3"
    assert "replay buffer" in done.stdout.splitlines()[2]
    scored = run("evaluate.py", f"run={folder}", "eval_episodes=2", "save_video=true")
    assert scored.returncode == 0, scored.stderr
    name = "step_000000512_2-episodes_seed-0"
    summary = json.loads((folder / "evaluation" / f"{name}.json").read_text())
    assert len(summary["episode_rewards"]) == 2
    assert (folder / "evaluation" / f"{name}.mp4").stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["task=cup-cach"], "cup-catch"),
        (["horizonn=3"], "did you mean horizon"),
        (["~lr"], "expected KEY=VALUE"),
        (["lr=abc"], "lr=abc"),
        (["seed=1,2"], "many runs need -m"),
        (["modality=pixels", "camera=5"], "this task has cameras 0 to"),
        (["-m", "hydra/launcher=joblib"], "choose from local, slurm"),
        (["seed=range(3,1)", "-m"], "the study has no runs"),
        (["-m", "log_dir=README.md"], "the study's folder README.md/multirun cannot be used"),
        (["threads=1e11"], "threads"),
    ],
)
def test_a_wrong_word_is_refused_before_anything_starts(
    tmp_path: Path, arguments: list[str], wanted: str
) -> None:
    done = run("train.py", f"log_dir={tmp_path}/logs", "preset=debug", *arguments)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert wanted in line
    assert not list(tmp_path.rglob("metrics.jsonl"))


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["mode=default", "plan_gradient=episode"], "needs planner=trajectory"),
        (["max_buffer_size=20", "batch_size=16"], "max_buffer_size=20 is too small"),
        (["horizon=40"], "horizon=40 needs episodes longer"),
        (["max_buffer_size=1000000000000"], "the replay buffer needs"),
        (["device=cuda:7"], "CUDA devices"),
        (["start_from=nowhere.pt"], "nowhere.pt does not exist"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_before_anything_starts(
    tmp_path: Path, arguments: list[str], wanted: str
) -> None:
    with pytest.raises(ConfigError, match=wanted):
        run_debug(tmp_path, *arguments)
    assert not list(tmp_path.rglob("metrics.jsonl"))


def test_a_study_does_only_what_is_missing(tmp_path: Path) -> None:
    words = ("-m", "preset=debug", "mode=default", f"log_dir={tmp_path}")
    done = run("train.py", *words, "seed=1,2", "hydra.launcher.n_jobs=2")
    assert done.returncode == 0, done.stderr
    assert "2 runs: 2 done" in done.stdout
    log = tmp_path / "cartpole-swingup" / "state" / "default" / "default" / "1" / "console.log"
    assert "done: 512 env steps" in log.read_text()
    again = run("train.py", *words, "seed=1,2,3", "max_buffer_size=choice(1000)")
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("nothing left to do") == 2
    refused = run("train.py", *words, "lr=1e-3,1e-4")
    assert refused.returncode == 2
    assert "exp_name=lr-${lr}" in refused.stderr


def test_scoring_what_is_not_there(tmp_path: Path) -> None:
    for arguments in ([f"run={tmp_path}"], [], ["run=x", "foo=1"]):
        done = run("evaluate.py", *arguments)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1, done.stderr


def test_ctrl_c_is_one_word_and_an_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        quietly_interruptible(main)
    assert ended.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"
