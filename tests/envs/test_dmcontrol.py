"""The DeepMind Control Suite as agents see it."""

import numpy as np
import pytest

from builders import make_env, task_config
from difftori.envs import ControlEnv
from difftori.envs.rendering import importing_mujoco
from difftori.sections import TaskConfig

with importing_mujoco():
    from dm_control import suite
    from dm_control.rl.control import PhysicsError

# the domains with random targets, joints and starts, each in one task
TASKS = [
    *(("acrobot", "swingup"), ("ball_in_cup", "catch"), ("cheetah", "run"), ("dog", "fetch")),
    *(
        ("finger", "turn_hard"),
        ("fish", "swim"),
        ("humanoid", "walk"),
        ("manipulator", "bring_ball"),
    ),
    *(("point_mass", "hard"), ("quadruped", "escape"), ("reacher", "hard"), ("stacker", "stack_2")),
    *(("swimmer", "swimmer6"), ("walker", "run")),
]


def task(domain: str, name: str, repeat: int = 2) -> TaskConfig:
    camera = 2 if domain == "quadruped" else 0
    return task_config(f"{domain}-{name}", "dmcontrol", domain, name, repeat, camera=camera)


def play(
    env: ControlEnv, seed: int | None, actions: np.ndarray
) -> tuple[list[np.ndarray], list[float]]:
    """Observations and rewards of an episode's beginning."""
    observations = [env.reset(seed=seed)[0]]
    rewards = []
    for action in actions:
        obs, reward, *_ = env.step(action)
        observations.append(obs)
        rewards.append(reward)
    return observations, rewards


def assert_a_seed_decides_everything(env: ControlEnv, steps: int) -> None:
    """The same episode twice, in a fresh environment and after other episodes."""
    rng = np.random.RandomState(0)
    actions, others = rng.uniform(-1, 1, (2, steps, *env.action_space.shape)).astype(np.float32)
    fresh_obs, fresh_rewards = play(env, 3, actions)
    other_obs, _ = play(env, 4, np.sign(others))
    play(env, None, others)
    used_obs, used_rewards = play(env, 3, actions)
    assert used_rewards == fresh_rewards
    np.testing.assert_array_equal(used_obs, fresh_obs)
    assert not np.array_equal(other_obs, fresh_obs)
    env.close()


@pytest.mark.parametrize(("domain", "name"), TASKS)
def test_a_seed_decides_the_whole_episode(domain: str, name: str) -> None:
    env, _ = make_env(task(domain, name), "state")
    assert_a_seed_decides_everything(env, steps=8)


@pytest.mark.usefixtures("rendering")
@pytest.mark.parametrize(
    ("domain", "name"),
    [("finger", "turn_easy"), ("quadruped", "escape")],
)
def test_a_seed_decides_every_pixel(domain: str, name: str) -> None:
    env, spec = make_env(task(domain, name), "pixels")
    obs, _ = env.reset(seed=0)
    assert obs.shape == spec.obs_shape == (9, 84, 84)
    assert obs.dtype == np.uint8
    assert np.ptp(obs) > 0
    np.testing.assert_array_equal(obs[:3], obs[3:6])
    assert_a_seed_decides_everything(env, steps=2)


@pytest.mark.parametrize(
    ("domain", "name", "repeat", "length"),
    [
        ("cartpole", "swingup_sparse", 8, 125),
        ("ball_in_cup", "catch", 3, 334),  # 1000 steps: the last action is held once
    ],
)
def test_an_episode_ends_exactly_at_its_length(
    domain: str, name: str, repeat: int, length: int
) -> None:
    env, spec = make_env(task(domain, name, repeat), "state")
    assert spec.episode_length == length
    for seed in (0, None):
        env.reset(seed=seed)
        for agent_step in range(1, length + 1):
            _, _, terminated, truncated, info = env.step(env.action_space.sample())
            assert not terminated
            assert truncated == (agent_step == length)
            assert info.keys() == {"env_steps"}
    env.close()


def test_action_repeat_holds_the_action_and_sums_rewards() -> None:
    action = np.array([0.3, -0.8, 0.1, 0.9, -0.2, 0.5], np.float32)
    once, _ = make_env(task("walker", "walk", repeat=1), "state")
    four, _ = make_env(task("walker", "walk", repeat=4), "state")
    obs_once, rewards = play(once, 5, np.stack([action] * 4))
    obs_four, summed = play(four, 5, action[None])
    assert summed == [sum(rewards)]
    np.testing.assert_array_equal(obs_four[1], obs_once[4])


def test_states_are_the_suites_observations_in_their_order() -> None:
    env, spec = make_env(task("finger", "turn_hard"), "state")
    obs, _ = env.reset(seed=2)
    original = suite.load("finger", "turn_hard", task_kwargs={"random": 2}).reset().observation
    expected = np.concatenate([np.ravel(value) for value in original.values()])
    assert obs.dtype == np.float32
    assert obs.shape == spec.obs_shape == (12,)
    np.testing.assert_array_equal(obs, expected.astype(np.float32))
    assert env.observation_space.contains(obs)


def test_actions_are_scaled_to_the_tasks_bounds() -> None:
    env, spec = make_env(task("quadruped", "walk"), "state")
    assert env.action_space.shape == (spec.action_dim,) == (12,)
    env.reset(seed=0)
    physics = env.simulator._env.physics
    low, high = physics.model.actuator_ctrlrange.T
    assert high.max() > 1.0, "this task no longer shows that actions are scaled"
    for value, expected in ((-1.0, low), (0.0, (low + high) / 2), (1.0, high)):
        env.step(np.full(12, value, np.float32))
        np.testing.assert_allclose(physics.data.ctrl, expected, atol=1e-12)


def test_a_diverged_simulation_is_reported_and_the_next_episode_is_sound() -> None:
    env, _ = make_env(task("pendulum", "swingup"), "state")
    actions = np.full((3, 1), 0.5, np.float32)
    expected, _ = play(env, 1, actions)
    env.simulator._env.physics.data.qvel[:] = np.inf
    with pytest.raises(PhysicsError):
        env.step(actions[0])
    np.testing.assert_array_equal(play(env, 1, actions)[0], expected)


def test_unknown_and_endless_tasks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"no task cheetah/fly: choose from .*cheetah/run"):
        make_env(task("cheetah", "fly"), "state")
    with pytest.raises(ValueError, match="no time limit"):
        make_env(task("lqr", "lqr_2_1"), "state")


@pytest.mark.usefixtures("rendering")
@pytest.mark.parametrize("modality", ["state", "pixels"])
def test_a_picture_may_be_larger_than_the_models_framebuffer(modality: str) -> None:
    env, _ = make_env(task("cartpole", "swingup", repeat=8), modality)
    before, _ = env.reset(seed=0)
    assert env.render(720, 700).shape == (720, 700, 3)
    again, _ = env.reset(seed=0)
    assert np.array_equal(before, again)
    assert env.seconds_per_step == pytest.approx(0.08)
    env.close()


def test_a_camera_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="camera=7: this task has cameras 0 to 1"):
        make_env(task_config("x", "dmcontrol", "cartpole", "swingup", 8, camera=7), "state")
