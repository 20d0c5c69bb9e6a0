"""What `ControlEnv` adds to any simulator, seen with a scripted one and with the integrator."""

import numpy as np
import pytest

from builders import make_env, task_config
from difftori.envs.base import ControlEnv, SimStep
from difftori.envs.integrator import STEP
from difftori.sections import TaskConfig


class Scripted:
    """Plays back rewards; its picture is filled with the number of steps taken."""

    action_dim = 1
    state_dim = 1
    can_terminate = True

    def __init__(self, script: list[SimStep]) -> None:
        self.script = script
        self.max_steps = len(script)
        self.taken = 0
        self.seeds: list[int] = []

    def reset(self, seed: int) -> None:
        self.taken = 0
        self.seeds.append(seed)

    def step(self, action: np.ndarray) -> SimStep:
        self.taken += 1
        return self.script[self.taken - 1]

    def state(self) -> np.ndarray:
        return np.array([self.taken], np.float32)

    def render(self, height: int, width: int) -> np.ndarray:
        return np.full((height, width, 3), self.taken, np.uint8)

    def close(self) -> None:
        pass


def scripted(rewards: list[float], *, repeat: int, pixels: bool = False) -> ControlEnv:
    simulator = Scripted([SimStep(reward, False) for reward in rewards])
    return ControlEnv(simulator, action_repeat=repeat, pixels=pixels)


def integrator(*, steps: int = 20, repeat: int = 1, dim: int = 2) -> TaskConfig:
    return task_config("point", "integrator", f"point-{dim}d", f"{steps}-steps", repeat)


ZERO = np.zeros(1, np.float32)


def test_action_repeat_sums_rewards_and_the_last_step_may_be_short() -> None:
    env = scripted([1.0, 2.0, 4.0, 8.0, 16.0], repeat=2)
    assert env.episode_length == 3
    env.reset(seed=0)
    results = [env.step(ZERO) for _ in range(3)]
    assert [reward for _, reward, *_ in results] == [3.0, 12.0, 16.0]
    assert [(terminated, truncated) for _, _, terminated, truncated, _ in results] == [
        (False, False),
        (False, False),
        (False, True),
    ]


def test_a_step_after_the_end_or_before_the_beginning_is_an_error() -> None:
    env = scripted([1.0], repeat=1)
    with pytest.raises(RuntimeError, match="call reset"):
        env.step(ZERO)
    env.reset(seed=0)
    env.step(ZERO)
    with pytest.raises(RuntimeError, match="call reset"):
        env.step(ZERO)


def test_an_early_end_is_terminated_not_truncated_and_stops_the_repeat() -> None:
    script = [SimStep(1.0, False), SimStep(1.0, True), SimStep(1.0, False)]
    env = ControlEnv(Scripted(script), action_repeat=3, pixels=False)
    env.reset(seed=0)
    obs, reward, terminated, truncated, info = env.step(ZERO)
    assert (obs[0], reward, terminated, truncated) == (2.0, 2.0, True, False)
    assert info == {"env_steps": 2}


def test_success_is_told_now_and_at_any_environment_step_so_far() -> None:
    script = [SimStep(0.0, False, success) for success in (False, False, True, False, False, True)]
    env = ControlEnv(Scripted(script), action_repeat=2, pixels=False)
    for _ in range(2):  # an episode knows nothing of the one before
        env.reset(seed=0)
        infos = [env.step(ZERO)[4] for _ in range(3)]
        assert [info["success"] for info in infos] == [False, False, True]
        assert [info["success_any"] for info in infos] == [False, True, True]


def test_frames_are_stacked_oldest_first_and_the_first_fills_the_stack() -> None:
    env = scripted([0.0] * 8, repeat=2, pixels=True)

    def frames(obs: np.ndarray) -> list[int]:
        assert obs.shape == (9, 84, 84)
        assert obs.dtype == np.uint8
        return [int(channel[0, 0]) for channel in obs[::3]]

    first, _ = env.reset(seed=0)
    assert frames(first) == [0, 0, 0]
    assert [frames(env.step(ZERO)[0]) for _ in range(3)] == [[0, 0, 2], [0, 2, 4], [2, 4, 6]]
    assert frames(first) == [0, 0, 0], "an observation changed after it was returned"
    assert frames(env.reset(seed=0)[0]) == [0, 0, 0], "frames of the last episode remained"


def test_episodes_without_a_seed_follow_from_the_last_seed_and_differ() -> None:
    simulator = Scripted([SimStep(0.0, False)])
    env = ControlEnv(simulator, action_repeat=1, pixels=False)
    for _ in range(2):
        env.reset(seed=7)
        env.reset()
        env.reset()
    first, again = simulator.seeds[:3], simulator.seeds[3:]
    assert first == again
    assert first[0] == 7
    assert len(set(first)) == 3


def best_action(x: np.ndarray) -> np.ndarray:
    return np.clip(-x / STEP, -1.0, 1.0)


def best_return(x: np.ndarray, steps: int) -> float:
    total = 0.0
    for _ in range(steps):
        x = x + STEP * best_action(x)
        total += 1.0 - float(x @ x)
    return total


def test_the_best_actions_give_the_integrators_best_return() -> None:
    env, spec = make_env(integrator(steps=15, dim=3), "state")
    x, _ = env.reset(seed=1)
    expected = best_return(x.astype(np.float64), 15)
    total, truncated = 0.0, False
    while not truncated:
        x, reward, _, truncated, _ = env.step(best_action(x))
        total += reward
    assert total == pytest.approx(expected, abs=1e-5)

    rng = np.random.RandomState(0)
    for _ in range(20):
        env.reset(seed=1)
        actions = rng.uniform(-1, 1, (spec.episode_length, 3))
        assert sum(env.step(action)[1] for action in actions) < expected


@pytest.mark.parametrize("modality", ["state", "pixels"])
@pytest.mark.parametrize("repeat", [1, 3])
def test_the_integrator_agrees_with_its_spec(modality: str, repeat: int) -> None:
    env, spec = make_env(integrator(repeat=repeat), modality)
    assert spec.episode_length == env.episode_length == 20
    assert spec.action_repeat == repeat
    assert spec.frame_stack == (3 if modality == "pixels" else 1)
    obs, _ = env.reset(seed=0)
    seen, truncated = 1, False
    while not truncated:
        assert obs.shape == spec.obs_shape
        assert env.observation_space.contains(obs)
        obs, _, _, truncated, _ = env.step(env.action_space.sample())
        seen += 1
    assert seen == spec.episode_length + 1
    assert env.render(32, 48).shape == (32, 48, 3)


def test_wrong_names_list_the_choices() -> None:
    with pytest.raises(ValueError, match="choose from dmcontrol"):
        make_env(task_config("x", "atari", "pong", "play", 4), "state")
    with pytest.raises(ValueError, match="point-2d"):
        make_env(task_config("x", "integrator", "point", "20", 1), "state")
