"""Whole runs of Gymnasium's environments: uneven episodes, failures, the folder's name."""

from pathlib import Path
from typing import Any

import pytest

from difftori.config import ConfigError
from runs import fingerprint, records, run_debug, run_folder


def test_the_folder_has_the_environments_name_and_kwargs_arrive(tmp_path: Path) -> None:
    words = ("task=gym", "env_id=gymnasium_fakes:Walk-v0", "env_kwargs={start: 7.0}")
    assert run_debug(tmp_path, "mode=default", *words) == 0
    folder = tmp_path / "gymnasium_fakes-Walk-v0" / "state" / "default" / "default" / "1"
    assert run_folder(tmp_path) == folder
    assert len(records(folder, "train")) == 4


@pytest.mark.parametrize("name", ["Falls", "RandomLength"])
def test_a_resumed_run_of_uneven_episodes_ends_in_the_same_bytes(tmp_path: Path, name: str) -> None:
    words = ("task=gym", f"env_id=gymnasium_fakes:{name}-v0", "mode=back_plan")
    words += ("theseus_start_step=24", "eval_freq=40")
    assert run_debug(tmp_path / "whole", *words, "train_steps=48") == 0
    assert run_debug(tmp_path / "resumed", *words, "train_steps=30") == 0
    assert run_debug(tmp_path / "resumed", *words, "train_steps=48") == 0
    whole, resumed = run_folder(tmp_path / "whole"), run_folder(tmp_path / "resumed")
    assert fingerprint(resumed) == fingerprint(whole)
    assert all(0 <= r["episode_success"] <= 1 for r in records(whole, "eval"))


def test_episodes_that_are_all_too_short_are_not_learned_from(tmp_path: Path) -> None:
    words = ("task=gym", "env_id=gymnasium_fakes:Falls-v0", "episodic=false", "horizon=5")
    assert run_debug(tmp_path, *words, "mode=default", "seed_steps=0", "train_steps=30") == 0
    assert {r["updates"] for r in records(run_folder(tmp_path), "train")} == {0}


def test_updates_stop_where_only_episodes_that_are_too_short_are_left(tmp_path: Path) -> None:
    words = ("task=gym", "env_id=gymnasium_fakes:Shrinks-v0", "episodic=false", "mode=default")
    words += ("update_within_episode=true", "max_buffer_size=20", "seed_steps=0", "train_steps=48")
    assert run_debug(tmp_path, *words, "eval_freq=1000") == 0
    updates = [r["updates"] for r in records(run_folder(tmp_path), "train")]
    assert updates[1] == 2
    assert updates[-1] == 0


def records_of_novelty(folder: Path, cost: float, ends: bool) -> list[dict[str, Any]]:
    kwargs = f"env_kwargs={{cost: {cost}, ends: {str(ends).lower()}}}"
    words = ("task=gym", "env_id=gymnasium_fakes:Costs-v0", kwargs, "novelty_until_reward=true")
    assert run_debug(folder, "mode=default", *words) == 0
    return records(run_folder(folder), "train")


def test_novelty_is_of_the_same_size_whatever_each_step_costs(tmp_path: Path) -> None:
    losses = []
    for cost in (1.0, 100.0):
        train = records_of_novelty(tmp_path / str(cost), cost, ends=False)
        assert not any(record["saw_reward"] for record in train)
        losses.append([record["reward_loss"] for record in train if record["updates"]])
    assert losses[0][-1] > 0
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


@pytest.mark.parametrize("cost", [0.0, 1.0])
def test_novelty_ends_where_the_returns_of_two_episodes_differ(tmp_path: Path, cost: float) -> None:
    """Where an end costs nothing, it says nothing of a reward."""
    saw_reward = [record["saw_reward"] for record in records_of_novelty(tmp_path, cost, ends=True)]
    assert not saw_reward[0]
    assert saw_reward[-1] == (cost > 0)


def test_one_that_raises_is_dropped_and_redone(tmp_path: Path) -> None:
    assert run_debug(tmp_path, "task=gym", "env_id=gymnasium_fakes:Raises-v0") == 0
    assert records(run_folder(tmp_path), "train")[-1]["episodes_dropped"] > 0


def test_the_environment_must_be_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="task=gym needs an environment: env_id="):
        run_debug(tmp_path, "task=gym")
    with pytest.raises(ConfigError, match="env_id=Walk-v0 needs task=gym"):
        run_debug(tmp_path, "env_id=Walk-v0")
    with pytest.raises(ConfigError, match="env_kwargs is for Gymnasium's environments"):
        run_debug(tmp_path, "env_kwargs={a: 1}")
