"""Bad environments and bad numbers: dropped, counted, and a clear stop after too many."""

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from difftori.checkpoints.tree_file import load_tree
from difftori.envs import ControlEnv
from difftori.learning.learner import Learner
from difftori.monitoring.status import read_status
from difftori.process import FAILED_EXIT_CODE
from runs import records, run_debug, run_folder


def break_step(monkeypatch: pytest.MonkeyPatch, when: set[int], fault: str) -> None:
    """Let the environment's step fail at the given calls, counted over the whole run."""
    step, calls = ControlEnv.step, 0

    def faulty(self: ControlEnv, action: np.ndarray) -> Any:
        nonlocal calls
        calls += 1
        obs, reward, *rest = step(self, action)
        if calls in when or -1 in when:
            if fault == "raises":
                raise ValueError("the simulation has exploded")
            if fault == "reward":
                reward = float("nan")
            if fault == "large":
                reward = 1e20
            if fault == "observation":
                obs = np.full_like(obs, np.inf)
        return obs, reward, *rest

    monkeypatch.setattr(ControlEnv, "step", faulty)


@pytest.mark.parametrize("fault", ["raises", "reward", "large", "observation"])
def test_a_failed_episode_is_redone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    break_step(monkeypatch, {5, 30}, fault)
    assert run_debug(tmp_path, "eval_freq=100000", "normalize_rewards=true") == 0
    train = records(run_folder(tmp_path), "train")
    assert [r["episodes_dropped"] for r in train] == [1, 2, 2, 2]
    assert [r["agent_step"] for r in train] == [16, 32, 48, 64]


def test_a_redone_episode_has_its_updates_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    updates: list[int] = []
    update = Learner.update

    def counted(self: Learner, batch: Any, step: int) -> Any:
        updates.append(step)
        return update(self, batch, step)

    monkeypatch.setattr(Learner, "update", counted)
    break_step(monkeypatch, {16 * 2 + 15}, "raises")
    words = ("update_within_episode=true", "updates_per_step=2", "eval_freq=100000")
    assert run_debug(tmp_path, *words) == 0
    assert records(run_folder(tmp_path), "train")[-1]["episodes_dropped"] == 1
    assert len(updates) == 2 * 3 * 16  # three planned episodes


def test_a_film_that_cannot_be_begun_costs_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on a full disk; nothing has to render for it."""
    make = Path.mkdir

    def full(self: Path, *arguments: Any, **keys: Any) -> None:
        if self.name == "videos":
            raise OSError(errno.ENOSPC, "No space left on device")
        make(self, *arguments, **keys)

    monkeypatch.setattr(Path, "mkdir", full)
    monkeypatch.setattr("difftori.training.start.prepare_suite_rendering", lambda suite: None)
    monkeypatch.setattr("difftori.training.start.refuse_unless_filmed", lambda env: None)
    assert run_debug(tmp_path, "save_video=true") == 0
    assert "the video cannot be written" in capsys.readouterr().err
    assert len(records(run_folder(tmp_path), "eval")) == 2


def break_making(monkeypatch: pytest.MonkeyPatch, when: set[int]) -> list[int]:
    """Let the environment's construction fail at the given calls; returns the calls so far."""
    make, calls = ControlEnv.__init__, [0]

    def faulty(self: ControlEnv, *args: Any, **kwargs: Any) -> None:
        calls[0] += 1
        if calls[0] in when or (-1 in when and calls[0] > 1):
            raise RuntimeError("no such world")
        make(self, *args, **kwargs)

    monkeypatch.setattr(ControlEnv, "__init__", faulty)
    return calls


def test_an_environment_that_cannot_be_made_again_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_step(monkeypatch, {5}, "raises")
    break_making(monkeypatch, {2, 3})
    assert run_debug(tmp_path, "eval_freq=100000") == 0
    assert records(run_folder(tmp_path), "train")[-1]["episodes_dropped"] == 3


def test_an_environment_that_is_gone_ends_the_run_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    break_step(monkeypatch, {5}, "raises")
    break_making(monkeypatch, {-1})
    assert run_debug(tmp_path, "eval_freq=100000", "max_failed_episodes=3") == FAILED_EXIT_CODE
    assert "no such world" in capsys.readouterr().err
    status = read_status(run_folder(tmp_path))
    assert status["state"] == "failed"
    assert "3 episodes in a row failed" in status["reason"]


def test_an_evaluation_without_environments_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    break_making(monkeypatch, {2})
    assert run_debug(tmp_path) == 0
    assert "this evaluation is left out" in capsys.readouterr().err
    # the first evaluation failed, the second one found its environments
    assert len(records(run_folder(tmp_path), "eval")) == 1


@pytest.mark.parametrize("fault", ["raises", "reward", "large", "observation"])
def test_a_failed_evaluation_episode_is_left_out_and_its_environment_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    break_step(monkeypatch, {16 * 2 + 3}, fault)
    calls = break_making(monkeypatch, set())
    assert run_debug(tmp_path) == 0
    evaluations = records(run_folder(tmp_path), "eval")
    assert [r["episodes"] for r in evaluations] == [1, 2]
    assert np.isfinite(evaluations[0]["episode_reward"])
    # one for training, two for evaluation, and one in place of the one that failed
    assert calls == [4]


def test_a_bad_weight_stops_the_run_and_never_reaches_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    update = Learner.update

    def spoil(self: Learner, batch: Any, step: int) -> Any:
        if step == 40:
            with torch.no_grad():
                self.model._dynamics[2].weight[3, 4] = torch.inf
        return update(self, batch, step)

    monkeypatch.setattr(Learner, "update", spoil)
    assert run_debug(tmp_path) == FAILED_EXIT_CODE
    error = capsys.readouterr().err
    assert "_dynamics.2.weight" in error
    for path in (run_folder(tmp_path) / "checkpoints").glob("*.safetensors"):
        for name, tensor in load_tree(path)["model"].items():
            assert torch.isfinite(tensor).all(), f"{path.name} {name}"


def test_a_bad_gradient_is_dropped_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Learner.update
    calls = 0

    def spoil(self: Learner, batch: Any, step: int) -> Any:
        nonlocal calls
        calls += 1
        if calls in (3, 4):
            batch.reward[0, 0] = torch.nan
        return original(self, batch, step)

    monkeypatch.setattr(Learner, "update", spoil)
    assert run_debug(tmp_path) == 0
    assert records(run_folder(tmp_path), "train")[-1]["updates_dropped"] == 2
