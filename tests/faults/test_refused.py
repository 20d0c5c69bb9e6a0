"""A checkpoint of another run is refused with what differs; what may differ is listed."""

import shutil
from pathlib import Path

import pytest

from difftori.checkpoints import checkpoint
from difftori.checkpoints.tree_file import load_tree, save_tree
from difftori.config import ConfigError
from difftori.training.start import FAILED_EXIT_CODE
from runs import records, run_debug, run_folder

ONE_EPISODE = "train_steps=128"


@pytest.fixture(scope="module")
def short_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``log_dir`` of a run of one episode."""
    log_dir = tmp_path_factory.mktemp("short")
    assert run_debug(log_dir, ONE_EPISODE) == 0
    return log_dir


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ("task=cartpole-balance", r"task cartpole-swingup \(now cartpole-balance\)"),
        ("seed=2", r"seed 1 \(now 2\)"),
        ("latent_dim=9", r"latent_dim 8 \(now 9\)"),
        ("max_iterations=5", r"max_iterations 4 \(now 5\)"),
    ],
)
def test_checkpoints_copied_from_another_run_are_refused(
    tmp_path: Path, short_run: Path, change: str, difference: str
) -> None:
    assert run_debug(tmp_path, ONE_EPISODE, "exp_name=other", change, "eval_freq=100000") == 0
    folder = run_folder(tmp_path)
    shutil.rmtree(folder / "checkpoints")
    shutil.copytree(run_folder(short_run) / "checkpoints", folder / "checkpoints")
    before = sorted(folder.rglob("*"))
    with pytest.raises(ConfigError, match=difference):
        run_debug(tmp_path, ONE_EPISODE, "exp_name=other", change, "eval_freq=100000")
    assert sorted(folder.rglob("*")) == before


def test_another_format_is_refused_by_its_number(
    tmp_path: Path, short_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_dir = Path(shutil.copytree(short_run, tmp_path / "copy"))
    monkeypatch.setattr(checkpoint, "FORMAT", 3)
    with pytest.raises(ConfigError, match="the checkpoint has format 2, this version reads 3"):
        run_debug(log_dir)


def test_a_key_that_is_younger_than_the_run_has_had_its_default(
    tmp_path: Path, short_run: Path
) -> None:
    log_dir = Path(shutil.copytree(short_run, tmp_path / "copy"))
    for path in (run_folder(log_dir) / "checkpoints").glob("step_*"):
        tree = load_tree(path)
        del tree["config"]["clip_actions"]
        save_tree(path, tree)
    with pytest.raises(ConfigError, match=r"clip_actions True \(now False\)"):
        run_debug(log_dir, ONE_EPISODE, "clip_actions=false")
    assert run_debug(log_dir, ONE_EPISODE) == 0


def test_a_run_of_an_earlier_version_is_refused_in_one_line(
    tmp_path: Path, short_run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log_dir = Path(shutil.copytree(short_run, tmp_path / "copy"))
    checkpoints = run_folder(log_dir) / "checkpoints"
    (checkpoints / "episodes").rename(checkpoints / "replay")
    before = sorted(checkpoints.iterdir())
    assert run_debug(log_dir) == FAILED_EXIT_CODE
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line]
    assert "written by an earlier version" in line
    assert sorted(checkpoints.iterdir()) == before


def test_keys_that_may_differ_are_accepted_and_listed(
    tmp_path: Path, short_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_dir = Path(shutil.copytree(short_run, tmp_path / "copy"))
    changes = ("train_steps=256", "eval_episodes=3", "save_model=false", "max_nonfinite=7")
    assert run_debug(log_dir, *changes) == 0
    out = capsys.readouterr().out
    (line,) = [line for line in out.splitlines() if "changed" in line]
    for change in ("train_steps 128 (now 256)", "eval_episodes 2 (now 3)", "max_nonfinite 50"):
        assert change in line
    assert [r["episodes"] for r in records(run_folder(log_dir), "eval")] == [3]
    assert run_debug(log_dir, *changes) == 0
    assert "changed" not in capsys.readouterr().out
