"""Damaged and hostile files: found before they are used, named, and nothing is deleted."""

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import start_training

from difftori.config import ConfigError
from difftori.process import FAILED_EXIT_CODE, USAGE_EXIT_CODE
from runs import fingerprint, run_debug, run_folder

THREE_EPISODES = "train_steps=384"


class Hostile:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return (os.system, (f"mkdir {self.mark}",))


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


def replace_by_pickle(path: Path) -> None:
    torch.save({"model": Hostile(path.parents[1] / "executed")}, path)


DAMAGE: dict[str, Callable[[Path], None]] = {
    "header": lambda path: flip(path, 50),
    "last byte": lambda path: flip(path, -1),
    "cut off": lambda path: os.truncate(path, path.stat().st_size * 2 // 3),
    "pickle": replace_by_pickle,
}


@pytest.fixture(scope="module")
def stopped_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``log_dir`` of a run that has three of its four episodes."""
    log_dir = tmp_path_factory.mktemp("stopped")
    assert start_training(log_dir, THREE_EPISODES).wait() == 0
    return log_dir


@pytest.fixture
def log_dir(tmp_path: Path, stopped_run: Path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(stopped_run, tmp_path / "copy"))


def checkpoints(folder: Path) -> list[Path]:
    return sorted((folder / "checkpoints").glob("step_*"))


def contents(folder: Path) -> dict[str, str]:
    """Digests of all files but the one that says how the run ended."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "status.json"
    }


@pytest.mark.parametrize("region", DAMAGE)
def test_the_checkpoint_before_a_damaged_one_is_used(
    log_dir: Path, stopped_run: Path, capfd: pytest.CaptureFixture[str], region: str
) -> None:
    folder = run_folder(log_dir)
    newest = checkpoints(folder)[-1]
    DAMAGE[region](newest)
    assert run_debug(log_dir, THREE_EPISODES) == 0
    (warning,) = [line for line in capfd.readouterr().err.splitlines() if "passed over" in line]
    assert str(newest) in warning
    assert fingerprint(folder) == fingerprint(run_folder(stopped_run))
    assert not (folder / "executed").exists()


def test_without_any_good_checkpoint_the_run_stops_and_deletes_nothing(
    log_dir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = run_folder(log_dir)
    for path, region in zip(checkpoints(folder), ("last byte", "pickle"), strict=True):
        DAMAGE[region](path)
    before = contents(folder)
    assert run_debug(log_dir) == FAILED_EXIT_CODE
    error = capfd.readouterr().err
    assert error.startswith("error: no checkpoint in ")
    assert "nothing was deleted" in error
    assert "intact" not in error
    assert all(str(path) in error for path in checkpoints(folder))
    assert "Traceback" not in error
    assert contents(folder) == before
    assert not (folder / "executed").exists()


def test_records_that_cannot_be_read_are_one_line(log_dir: Path) -> None:
    records = run_folder(log_dir) / "metrics.jsonl"
    records.unlink()
    records.mkdir()
    with pytest.raises(ConfigError, match=r"metrics\.jsonl cannot be read: Is a directory"):
        run_debug(log_dir)


def test_an_episode_that_both_checkpoints_need_is_named_and_nothing_is_deleted(
    log_dir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = run_folder(log_dir)
    episode = folder / "checkpoints" / "episodes" / "000001.safetensors"
    episode.unlink()
    before = contents(folder)
    assert run_debug(log_dir) == FAILED_EXIT_CODE
    assert str(episode) in capfd.readouterr().err
    assert contents(folder) == before


def test_an_episode_that_only_the_newest_checkpoint_needs_leaves_the_one_before(
    log_dir: Path, finished_run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = run_folder(log_dir)
    episode = folder / "checkpoints" / "episodes" / "000002.safetensors"
    flip(episode, -1)
    assert run_debug(log_dir) == 0
    assert str(episode) in capfd.readouterr().err
    assert fingerprint(folder) == fingerprint(finished_run)


def test_start_from_runs_nothing_that_a_pickle_asks_for(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path, mark = tmp_path / "model.pt", tmp_path / "executed"
    torch.save({"model": Hostile(mark), "model_target": {}}, path)
    assert start_training(tmp_path / "run", f"start_from={path}").wait() == USAGE_EXIT_CODE
    (line,) = (tmp_path / "run" / "log.err").read_text().splitlines()
    assert line == f"error: {path} is not a file of weights that torch.save wrote"
    assert not mark.exists()
    torch.load(path, weights_only=False)
    assert mark.exists(), "the file would not have done anything anyway"
