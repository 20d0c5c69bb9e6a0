"""A run's agent from its files, as another program uses it."""

import os
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

from difftori import load_agent
from difftori.agent import Agent
from difftori.checkpoints.checkpoint import read_latest
from difftori.config import ConfigError
from difftori.training.evaluation import evaluate
from runs import run_debug, run_folder

SRC = Path(__file__).resolve().parents[1] / "src"
POINT = ("suite=integrator", "domain=point-2d", "domain_task=16-steps")


def trained(logs: Path, mode: str) -> Path:
    """A finished run; its episodes have 16 env steps, 6 agent steps."""
    repeat = ("action_repeat=3", "episode_length=16", "train_steps=64", "eval_freq=64")
    assert run_debug(logs, f"mode={mode}", *POINT, *repeat) == 0
    return run_folder(logs)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("logs"), "back_plan")


def episode_reward(agent: Agent, seed: int) -> float:
    env = agent.make_env()
    obs, _ = env.reset(seed=seed)
    agent.reset(seed)
    rewards, done = [], False
    while not done:
        action = agent.act(obs)
        assert (action.shape, action.dtype) == ((2,), np.float32)
        obs, reward, terminated, truncated, _ = env.step(action)
        rewards.append(reward)
        done = terminated or truncated
    return sum(rewards)


@pytest.mark.parametrize("mode", ["default", "back_plan"])
def test_it_acts_as_in_an_evaluation(tmp_path: Path, mode: str) -> None:
    agent = load_agent(trained(tmp_path, mode), device="cpu")
    scored = evaluate(
        agent.actor,
        [agent.make_control_env()],
        seeds=[5],
        agent_step=agent.trained.agent_step,
        update_step=agent.trained.update_step,
        device=agent.device,
    )
    # the second episode begins without the first one's plan and noise
    assert [episode_reward(agent, 5) for _ in range(2)] == [*scored.rewards] * 2
    assert episode_reward(agent, 6) != scored.rewards[0]


def test_its_env_step_counts_the_steps_taken(run: Path) -> None:
    """The action repeat does not divide the episodes, whose last agent steps are shorter."""
    counters = read_latest(run)["counters"]
    trained = load_agent(run, device="cpu").trained
    assert trained.env_step == counters["env_step"]
    assert trained.env_step != trained.agent_step * 3


def test_it_reads_one_checkpoint_or_weights(run: Path) -> None:
    latest = max((run / "checkpoints").glob("step_*"))
    agent = load_agent(run, device="cpu")
    assert load_agent(run, latest, "cpu").trained == agent.trained
    weights = load_agent(str(run), str(run / "models" / "model.pt"), "cpu")
    assert weights.trained.env_step is None
    assert weights.trained.agent_step == 64 // 3  # as far as the run's train_steps
    obs, _ = weights.make_env().reset(seed=0)
    assert np.isfinite(weights.act(obs)).all()


@pytest.fixture(scope="module")
def nested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of an environment with Dict observations and actions in [0, 0.25] and [-3, 7]."""
    logs = tmp_path_factory.mktemp("logs")
    words = ("task=gym", "env_id=gymnasium_fakes:NestedAsymmetric-v0", "mode=default")
    assert run_debug(logs, *words, "train_steps=32", "eval_freq=32") == 0
    return run_folder(logs)


def test_in_a_loop_of_ones_own_it_speaks_the_environments_language(nested: Path) -> None:
    agent = load_agent(nested, device="cpu")
    own, ours = gym.make("NestedAsymmetric-v0"), agent.make_env()
    (raw, _), (flat, _) = own.reset(seed=4), ours.reset(seed=4)
    assert isinstance(raw, dict)
    assert own.action_space == ours.action_space
    for _ in range(6):
        agent.reset(seed=1)
        action = agent.act(raw)
        assert own.action_space.contains(action)
        agent.reset(seed=1)
        np.testing.assert_array_equal(agent.act(flat), action)
        (raw, reward, *_), (flat, same_reward, *_) = own.step(action), ours.step(action)
        assert reward == pytest.approx(same_reward, abs=1e-6)


def test_its_own_loop_scores_as_an_evaluation(nested: Path) -> None:
    agent = load_agent(nested, device="cpu")
    scored = evaluate(
        agent.actor,
        [agent.make_control_env()],
        seeds=[5],
        agent_step=agent.trained.agent_step,
        update_step=agent.trained.update_step,
        device=agent.device,
    )
    env = gym.make("NestedAsymmetric-v0")
    obs, _ = env.reset(seed=5)
    agent.reset(seed=5)
    total = 0.0
    for _ in range(agent.spec.episode_length):
        obs, reward, *_ = env.step(agent.act(obs))
        total += reward
    assert total == pytest.approx(scored.rewards[0], rel=1e-6)


def test_plans_that_are_not_finite_are_counted(run: Path) -> None:
    agent = load_agent(run, device="cpu")
    with torch.no_grad():
        agent.actor._model.state_dict()["_dynamics.0.weight"].fill_(torch.nan)
    scored = evaluate(
        agent.actor,
        [agent.make_control_env() for _ in range(2)],
        seeds=[5, 6],
        agent_step=agent.trained.agent_step,
        update_step=agent.trained.update_step,
        device=agent.device,
    )
    assert scored.plans_not_finite == 2 * agent.spec.episode_length
    assert np.isfinite(scored.rewards).all()


def test_weights_that_are_not_finite_are_refused(run: Path, tmp_path: Path) -> None:
    weights = torch.load(run / "models" / "model.pt", weights_only=True)
    weights["model"]["_dynamics.0.weight"].fill_(torch.nan)
    torch.save(weights, tmp_path / "model.pt")
    with pytest.raises(ConfigError, match=r"_dynamics\.0\.weight is not finite"):
        load_agent(run, tmp_path / "model.pt", "cpu")


def test_what_is_not_there_is_named(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere is not a run's folder"):
        load_agent(tmp_path / "nowhere")
    for name in ("nope.pt", "nope.safetensors"):
        with pytest.raises(ConfigError, match=rf"checkpoint=.*{name} does not exist"):
            load_agent(run, tmp_path / name)
    (tmp_path / "config.yaml").write_bytes((run / "config.yaml").read_bytes())
    with pytest.raises(ConfigError, match="there is no checkpoint"):
        load_agent(tmp_path, device="cpu")


def test_it_works_from_any_folder_and_importing_the_package_is_cheap(
    run: Path, tmp_path: Path
) -> None:
    program = (
        "import sys, difftori\n"
        "assert 'torch' not in sys.modules\n"
        f"agent = difftori.load_agent({str(run)!r}, device='cpu')\n"
        "obs, _ = agent.make_env().reset(seed=0)\n"
        "print(agent.act(obs).tolist())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(SRC)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    agent = load_agent(run, device="cpu")
    obs, _ = agent.make_env().reset(seed=0)
    assert done.stdout.strip() == str(agent.act(obs).tolist())
