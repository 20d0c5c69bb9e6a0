"""Every Meta-World task, thoroughly: ``python tests/envs/metaworld_tasks.py [TASK…]``.

For each task: an episode is the same to the bit when it is played again after others, and in
another process; it begins as Meta-World's own benchmark begins one; the goal is observed and
differs from episode to episode; Meta-World's scripted policy is seen to solve it. Takes minutes;
the tests do the same for a few tasks.
"""

import hashlib
import json
import pickle
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "src"))

from difftori.config import compose  # noqa: E402
from difftori.envs import ControlEnv, make_env  # noqa: E402
from difftori.envs.base import SimStep  # noqa: E402
from difftori.envs.metaworld import MetaWorld  # noqa: E402
from difftori.sections import TaskConfig  # noqa: E402

SEED = 3
FILES = sorted((ROOT / "cfgs" / "task").glob("mw-*.yaml"))


@dataclass(frozen=True)
class Played:
    obs: np.ndarray
    reward: np.ndarray
    success: tuple[tuple[bool, bool], ...]
    """at each agent step: now, and at any so far"""
    ended: tuple[int, ...]
    """agent steps at which the environment said that the episode was over"""

    def digest(self) -> str:
        parts = self.obs.tobytes() + self.reward.tobytes() + repr(self.success).encode()
        return hashlib.sha256(parts).hexdigest()


def task_named(name: str, modality: str = "state") -> TaskConfig:
    """As ``cfgs/task`` describes it."""
    return compose(f"task={name}", f"modality={modality}").env


def make(name: str, modality: str = "state") -> ControlEnv:
    return make_env(task_named(name, modality))[0]


def some_actions(steps: int, seed: int = 0) -> np.ndarray:
    """Actions that drift, so that the arm reaches things and pushes them about."""
    rng = np.random.RandomState(seed)
    drift = np.repeat(rng.uniform(-1, 1, (-(-steps // 10), 4)), 10, axis=0)[:steps]
    return np.clip(drift + 0.5 * rng.randn(steps, 4), -1, 1).astype(np.float32)


def play(env: ControlEnv, seed: int | None, actions: np.ndarray) -> Played:
    observations = [env.reset(seed=seed)[0]]
    rewards, success, ended = [], [], []
    for step, action in enumerate(actions, start=1):
        obs, reward, terminated, truncated, info = env.step(action)
        assert not terminated
        observations.append(obs)
        rewards.append(reward)
        success.append((info["success"], info["success_any"]))
        if truncated:
            ended.append(step)
    return Played(np.stack(observations), np.array(rewards), tuple(success), tuple(ended))


def check_a_seed_decides_everything(env: ControlEnv, steps: int) -> Played:
    """The same episode in a fresh environment and after others, cut and whole."""
    actions = some_actions(steps)
    fresh = play(env, SEED, actions)
    other = play(env, 4, np.sign(some_actions(steps, seed=1)))
    play(env, None, some_actions(steps // 2, seed=2))
    used = play(env, SEED, actions)
    assert used.digest() == fresh.digest(), "another episode before it changed an episode"
    assert not np.array_equal(other.obs[0], fresh.obs[0]), "the seed changed nothing"
    return fresh


def check_it_begins_as_the_benchmark_does(name: str, steps: int = 5) -> None:
    """Against Meta-World's own environment with a task of the same draw set, as in MT1."""
    import mujoco
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS
    from metaworld.types import Task

    actions = some_actions(steps)
    ours = MetaWorld(name)
    ours.reset(SEED)
    cls = ALL_V3_ENVIRONMENTS[name]
    theirs = cls()
    draw = {"env_cls": cls, "rand_vec": ours._env._last_rand_vec, "partially_observable": False}
    theirs.set_task(Task(name, pickle.dumps(draw)))
    theirs.reset()
    mujoco.mj_forward(theirs.model, theirs.data)
    for action in actions:
        expected, reward, _, _, info = theirs.step(action)
        step = ours.step(action)
        assert step == SimStep(float(reward), terminated=False, success=bool(info["success"]))
        np.testing.assert_array_equal(ours.state()[:18], expected[:18].astype(np.float32))
        np.testing.assert_array_equal(ours.state()[-3:], expected[-3:].astype(np.float32))
    np.testing.assert_array_equal(ours.state(), expected.astype(np.float32))
    ours.close()
    theirs.close()


def check_the_start_is_observed(env: ControlEnv, seeds: int = 10) -> bool:
    """Each start is another, and what is seen of it is still there a step later.

    Returns whether goals differ too: in some tasks only the object's place is drawn.
    """
    starts = []
    for seed in range(seeds):
        start, _ = env.reset(seed=seed)
        after, *_ = env.step(np.zeros(4, np.float32))
        assert np.isfinite(start).all()
        np.testing.assert_array_equal(start[-3:], after[-3:], err_msg="the goal moved")
        # objects may settle, but not be elsewhere; quaternions may change their sign
        np.testing.assert_allclose(start[4:7], after[4:7], atol=0.03)
        np.testing.assert_array_equal(start[:18], start[18:36])
        starts.append(start)
    assert len({start.tobytes() for start in starts}) == seeds
    assert any(np.ptp(starts, axis=0)[4:] > 0), "neither object nor goal was drawn anew"
    return bool(np.ptp(starts, axis=0)[-3:].max() > 0)


def expert(env: ControlEnv, name: str, seeds: int = 3) -> tuple[float, float, float]:
    """Of Meta-World's scripted policy: return, success at the last step and at any; means."""
    from metaworld.policies import ENV_POLICY_MAP

    warnings.filterwarnings("ignore", message="Constant.s. may be too high")
    results = []
    for seed in range(seeds):
        policy = ENV_POLICY_MAP[name]()
        obs, _ = env.reset(seed=seed)
        total, over = 0.0, False
        while not over:
            action = np.clip(policy.get_action(obs.astype(np.float64)), -1, 1)
            obs, reward, _, over, info = env.step(action.astype(np.float32))
            total += reward
        results.append((total, info["success"], info["success_any"]))
    reward, last, any_ = np.mean(results, axis=0)
    return float(reward), float(last), float(any_)


def digest(name: str) -> str:
    """Of one whole episode in a fresh environment, for comparing processes."""
    env = make(name)
    played = play(env, SEED, some_actions(env.episode_length))
    env.close()
    return played.digest()


def main(names: list[str]) -> None:
    names = names or [path.stem for path in FILES]
    # backwards, so that other tasks come before each than in this process
    elsewhere = subprocess.run(
        [sys.executable, __file__, "--digests", *reversed(names)],
        check=True,
        capture_output=True,
        text=True,
    )
    digests = json.loads(elsewhere.stdout)
    for name in names:
        env = make(name)
        played = check_a_seed_decides_everything(env, env.episode_length)
        assert played.ended == (100,), played.ended
        assert played.digest() == digests[name], "another process plays another episode"
        own_name = task_named(name).domain_task
        check_it_begins_as_the_benchmark_does(own_name)
        goals = "goals differ" if check_the_start_is_observed(env) else "one goal"
        reward, last, any_ = expert(env, own_name)
        print(
            f"{name:30s} exact  {goals:12s}  scripted policy: "
            f"return {reward:6.0f}  success {last:.2f} at the last step, {any_:.2f} at any",
            flush=True,
        )
        env.close()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--digests"]:
        print(json.dumps({name: digest(name) for name in sys.argv[2:]}))
    else:
        main(sys.argv[1:])
