"""A checkpoint of another run is refused with what differs."""

import shutil
from pathlib import Path

import pytest

from difftori.checkpoints import checkpoint
from difftori.checkpoints.tree_file import load_tree, save_tree
from difftori.config import ConfigError
from difftori.monitoring.status import write_status
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
        ("latent_dim=9", r"latent_dim 8 \(now 9\)"),
    ],
)
def test_checkpoints_copied_from_another_run_are_refused(
    tmp_path: Path, short_run: Path, change: str, difference: str
) -> None:
    command = (ONE_EPISODE, "exp_name=other", change, "eval_freq=100000")
    assert run_debug(tmp_path, *command) == 0
    folder = run_folder(tmp_path)
    shutil.rmtree(folder / "checkpoints")
    shutil.copytree(run_folder(short_run) / "checkpoints", folder / "checkpoints")
    before = sorted(folder.rglob("*"))
    with pytest.raises(ConfigError, match=difference):
        run_debug(tmp_path, *command)
    assert sorted(folder.rglob("*")) == before


def test_another_eval_freq_is_refused(tmp_path: Path, short_run: Path) -> None:
    """Its evaluations would be at other steps."""
    log_dir = Path(shutil.copytree(short_run, tmp_path / "copy"))
    with pytest.raises(ConfigError, match="eval_freq"):
        run_debug(log_dir, ONE_EPISODE, "eval_freq=64")


def test_another_format_is_refused_by_its_number(
    tmp_path: Path, short_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_dir = Path(shutil.copytree(short_run, tmp_path / "copy"))
    monkeypatch.setattr(checkpoint, "FORMAT", 5)
    with pytest.raises(ConfigError, match="the checkpoint has format 4, this version reads 5"):
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


def test_keys_that_may_differ_are_accepted(tmp_path: Path, short_run: Path) -> None:
    log_dir = Path(shutil.copytree(short_run, tmp_path / "copy"))
    changes = ("train_steps=256", "eval_episodes=3", "save_model=false", "max_nonfinite=7")
    assert run_debug(log_dir, *changes) == 0
    assert [r["episodes"] for r in records(run_folder(log_dir), "eval")] == [3]


@pytest.mark.parametrize("without_records", [False, True])
@pytest.mark.parametrize("keep", ["models", "done", "stopped", "evaluations"])
def test_a_run_whose_checkpoints_are_gone_is_not_begun_again(
    tmp_path: Path, short_run: Path, keep: str, without_records: bool
) -> None:
    shutil.copytree(short_run, tmp_path, dirs_exist_ok=True)
    folder = run_folder(tmp_path)
    for path in (folder / "checkpoints").glob("*.safetensors"):
        path.unlink()
    if keep in ("models", "evaluations"):
        (folder / "status.json").unlink()
    if keep != "models":
        shutil.rmtree(folder / "models")
    if without_records or keep == "evaluations":
        (folder / "metrics.jsonl").unlink()
    if keep == "evaluations":
        (folder / "eval.csv").write_text("env_step,episode_reward,episode_success\n128,1.0,\n")
    if keep == "stopped":
        write_status(folder, "stopped", reason="by SIGTERM, and saved")
    before = {path: path.read_bytes() for path in folder.glob("*.*")}
    with pytest.raises(ConfigError, match="whose checkpoints are gone"):
        run_debug(tmp_path, ONE_EPISODE)
    with pytest.raises(ConfigError, match="resume=false overwrite=true deletes it"):
        run_debug(tmp_path, ONE_EPISODE, "resume=false")
    assert {path: path.read_bytes() for path in folder.glob("*.*")} == before


def test_an_overwritten_run_may_keep_its_checkpoints_elsewhere(
    tmp_path: Path, short_run: Path
) -> None:
    """On another disk, behind a link: the link goes, and what it led to stays."""
    log_dir = Path(shutil.copytree(short_run, tmp_path / "copy"))
    there = run_folder(log_dir) / "checkpoints"
    elsewhere = there.rename(tmp_path / "elsewhere")
    before = sorted(elsewhere.rglob("*"))
    there.symlink_to(elsewhere)
    assert run_debug(log_dir, ONE_EPISODE, "resume=false", "overwrite=true") == 0
    assert not there.is_symlink()
    assert sorted(elsewhere.rglob("*")) == before
