"""Meta-World as agents see it; ``metaworld_tasks.py`` does this for all fifty tasks."""

import sys
from pathlib import Path

import numpy as np
import pytest
from metaworld_tasks import (
    check_a_seed_decides_everything,
    check_it_begins_as_the_benchmark_does,
    check_the_start_is_observed,
    expert,
    make,
    play,
    some_actions,
    task_named,
)

from difftori.envs import make_env
from difftori.envs.divergence import PhysicsError
from difftori.envs.metaworld import MetaWorld

UP, DOWN = np.array([[0, 0, 1, 0], [0, 0, -1, 0]], np.float32)


# window-close moves a joint last of all in its reset, bin-picking's reward remembers the
# episode's first step, shelf-place draws a fixed body's place and an object's
@pytest.mark.parametrize("name", ["mw-window-close", "mw-bin-picking", "mw-shelf-place"])
def test_a_seed_decides_the_whole_episode(name: str) -> None:
    env = make(name)
    np.random.seed(1)
    check_a_seed_decides_everything(env, steps=20)
    check_the_start_is_observed(env, seeds=3)
    env.close()


def test_numpys_own_generator_neither_decides_an_episode_nor_is_used() -> None:
    env = make("mw-push")
    np.random.seed(1)
    first = play(env, 0, some_actions(2))
    np.random.seed(2)
    before = np.random.get_state()[1].copy()
    assert play(env, 0, some_actions(2)).digest() == first.digest()
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_an_episode_is_the_benchmarks_own() -> None:
    check_it_begins_as_the_benchmark_does("window-close-v3")


def test_an_episode_is_a_hundred_agent_steps_and_never_ends_early() -> None:
    env, spec = make_env(task_named("mw-drawer-close"))
    assert (spec.episode_length, spec.action_repeat, spec.obs_shape) == (100, 2, (39,))
    assert env.action_space.shape == (spec.action_dim,) == (4,)
    assert env.seconds_per_step == 0.025
    obs, _ = env.reset(seed=0)
    assert env.observation_space.contains(obs)
    played = play(env, 0, some_actions(100))
    assert played.ended == (100,)
    with pytest.raises(RuntimeError, match="call reset"):
        env.step(UP)


def test_action_repeat_holds_the_action_and_sums_rewards() -> None:
    action = np.array([0.3, -0.8, 0.1, 0.9], np.float32)
    once = make_env(task_named("mw-push").model_copy(update={"action_repeat": 1}))[0]
    twice = make("mw-push")
    single, double = play(once, 5, np.stack([action] * 2)), play(twice, 5, action[None])
    assert double.reward[0] == sum(single.reward)
    np.testing.assert_array_equal(double.obs[1], single.obs[2])


def test_the_scripted_policy_succeeds_and_is_told_so() -> None:
    reward, last, at_any = expert(make("mw-drawer-close"), "drawer-close-v3", seeds=1)
    assert reward > 500
    assert last == at_any == 1
    idle = play(make("mw-drawer-close"), 0, np.zeros((5, 4), np.float32))
    assert idle.success == ((False, False),) * 5


def test_a_diverged_simulation_is_reported_and_the_next_episode_is_sound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    env = make("mw-reach")
    expected = play(env, 1, some_actions(3))
    env.simulator._env.data.qvel[:] = np.inf
    with pytest.raises(PhysicsError, match="diverged: mjWARN_BADQVEL"):
        env.step(UP)
    assert play(env, 1, some_actions(3)).digest() == expected.digest()
    assert list(tmp_path.iterdir()) == [], "MuJoCo wrote a log of its own"


def test_unknown_tasks_are_refused() -> None:
    for domain, name in (("sawyer", "fly-v3"), ("panda", "reach-v3"), ("sawyer", "reach")):
        with pytest.raises(ValueError, match=rf"no task {domain}/{name}: .*sawyer/reach-v3"):
            make_env(
                task_named("mw-push").model_copy(update={"domain": domain, "domain_task": name})
            )


def test_a_missing_package_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "metaworld.env_dict", None)
    with pytest.raises(RuntimeError, match=r"task=mw-reach needs .*pip install"):
        make("mw-reach")


@pytest.mark.usefixtures("rendering")
def test_a_seed_decides_every_pixel_and_filming_changes_nothing() -> None:
    state, env = make("mw-drawer-open"), make("mw-drawer-open", "pixels")
    actions = some_actions(2)
    unseen = play(state, 3, actions)
    first = play(env, 3, actions)
    assert first.obs.shape == (3, 9, 84, 84)
    assert first.obs.dtype == np.uint8
    np.testing.assert_array_equal(first.obs[0][:3], first.obs[0][6:])
    assert not np.array_equal(first.obs[1][6:], first.obs[2][6:])
    play(env, 4, actions)
    assert env.render(48, 64).shape == (48, 64, 3)
    assert play(env, 3, actions).digest() == first.digest()
    np.testing.assert_array_equal(first.reward, unseen.reward)
    for each in (env, state):
        each.close()


@pytest.mark.usefixtures("rendering")
def test_the_picture_stands_upright_and_is_not_mirrored() -> None:
    simulator = MetaWorld("reach-v3", camera=4)
    simulator.reset(seed=0)
    camera_right = simulator._env.data.cam_xmat[4][:3]
    assert simulator._is_upside_down(), "this camera no longer shows that pictures are turned"

    def finger() -> np.ndarray:
        """Row and column of the cyan finger's middle."""
        red, green, blue = simulator.render(120, 120).astype(int).transpose(2, 0, 1)
        return np.argwhere((green > red + 60) & (blue > red + 60)).mean(axis=0)

    def move(action: np.ndarray) -> np.ndarray:
        start = finger()
        for _ in range(15):
            simulator.step(action)
        return finger() - start

    assert move(UP)[0] < -2
    assert move(DOWN)[0] > 2
    along_x = np.array([1, 0, 0, 0], np.float32)
    # the camera's own right is the turned picture's left
    assert np.sign(move(along_x)[1]) == -np.sign(camera_right[0])
    simulator.close()
