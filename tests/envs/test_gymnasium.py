"""Gymnasium's environments and one's own, as the suite ``gymnasium`` shows them."""

import sys
from pathlib import Path

import numpy as np
import pytest

from builders import make_env, task_config
from difftori.envs import ControlEnv
from difftori.envs.divergence import PhysicsError
from difftori.sections import TaskConfig
from difftori.types import EnvSpec
from gymnasium_fakes import REWARD_AT_THE_END

NAMED = ["Hopper", "Walker2d", "HalfCheetah", "InvertedPendulum", "InvertedDoublePendulum", "Ant"]


def task(env_id: str, **fields: object) -> TaskConfig:
    return task_config(env_id, "gymnasium", "gymnasium", env_id, 1, **fields)


def make(name: str, modality: str = "state", **fields: object) -> tuple[ControlEnv, EnvSpec]:
    return make_env(task(f"{name}-v0", **fields), modality)


def run(env: ControlEnv, seed: int) -> list[tuple[float, bool, bool, dict[str, object]]]:
    """An episode that always acts 1: what each step gave but its observation."""
    env.reset(seed=seed)
    steps: list[tuple[float, bool, bool, dict[str, object]]] = []
    while not steps or not (steps[-1][1] or steps[-1][2]):
        steps.append(env.step(np.ones(env.action_space.shape or (), np.float32))[1:])
    return steps


class TestActions:
    def test_the_box_reaches_both_bounds_exactly_and_its_middle(self) -> None:
        env, spec = make("Asymmetric")
        assert spec.action_dim == 2
        env.reset(seed=0)
        rewards = [env.step(np.array(a, np.float32))[1] for a in ((-1, -1), (1, 1), (0, 0))]
        assert rewards == [-3.0, 2.5 + 7.0, 1.25 + 2.0]

    def test_an_action_beyond_the_box_is_clipped_to_it(self) -> None:
        env, _ = make("Asymmetric")
        env.reset(seed=0)
        assert env.step(np.array([5.0, -5.0], np.float32))[1] == 2.5 - 3.0


class TestObservations:
    def test_a_dict_is_flattened_by_gymnasiums_own_rule(self) -> None:
        env, spec = make("Nested")
        obs, _ = env.reset(seed=3)
        assert obs.dtype == np.float32
        assert obs.shape == spec.obs_shape == (3 + 2 + 4,)
        x = make("Walk")[0].reset(seed=3)[0]
        np.testing.assert_array_equal(obs, [0, 0, 1, 1, 0, *x, *-x])

    def test_a_tuple_is_flattened_in_the_users_own_loop_too(self) -> None:
        env, spec = make("Paired")
        obs, _ = env.reset(seed=3)
        assert obs.shape == spec.obs_shape == (2 + 3,)
        np.testing.assert_array_equal(env.flat_observation((obs[:2], 2)), obs)
        np.testing.assert_array_equal(env.flat_observation(obs), obs)

    def test_an_observation_once_given_stays_as_it_is(self) -> None:
        env, _ = make("Walk")
        first, _ = env.reset(seed=0)
        before = first.copy()
        env.step(np.ones(1, np.float32))
        np.testing.assert_array_equal(first, before)


class TestEnds:
    def test_a_fall_is_terminated_and_not_truncated(self) -> None:
        env, spec = make("Falls")
        steps = run(env, seed=0)
        assert [(s[1], s[2]) for s in steps] == [(False, False), (False, False), (True, False)]
        assert steps[-1][0] == REWARD_AT_THE_END
        assert spec.can_terminate
        assert spec.episode_length == 20

    def test_the_time_limit_and_the_environments_own_cut_are_truncated(self) -> None:
        assert [s[1:3] for s in run(make("Walk")[0], seed=0)][-2:] == [
            (False, False),
            (False, True),
        ]
        env, _ = make("RandomLength")
        episodes = [run(env, seed) for seed in range(6)]
        assert all(steps[-1][1:3] == (False, True) for steps in episodes)
        assert len({len(steps) for steps in episodes}) > 2

    def test_a_cut_shorter_than_the_tasks_own_limit_holds(self) -> None:
        env, spec = make("Walk", episode_length=7)
        assert spec.episode_length == len(run(env, seed=0)) == 7

    def test_the_suites_answer_can_be_overruled(self) -> None:
        assert not make("Falls", episodic=False)[1].can_terminate
        assert not make_env(task_config("p", "integrator", "point-1d", "5-steps", 1), "state")[
            1
        ].can_terminate

    def test_success_is_read_under_either_name(self) -> None:
        falls, random = run(make("Falls")[0], seed=0), run(make("RandomLength")[0], seed=0)
        assert [s[3]["success"] for s in falls] == [False, False, True]
        assert random[-1][3]["success"] == (len(random) > 6)
        assert "success" not in run(make("Walk")[0], seed=0)[-1][3]


class TestRefusals:
    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("ChoosesAmongThree", "only continuous ones work"),
            ("Whole", "a Box of floats"),
            ("Unbounded", "finite bounds"),
            ("Listing", "do not flatten to a vector"),
            ("NoActions", "its actions are None"),
            ("NoObservations", "its observations are None"),
            ("Endless", "register it with max_episode_steps=N"),
            ("Wlak", r"Did you mean: `Walk`"),
        ],
    )
    def test_what_cannot_work_is_one_line_that_says_what_to_do(self, name: str, words: str) -> None:
        with pytest.raises(ValueError, match=rf"^env_id={name}-v0: .*{words}") as refused:
            make(name)
        assert "\n" not in str(refused.value)

    def test_one_that_would_end_the_process_has_failed(self) -> None:
        env, _ = make("Exits")
        env.reset(seed=0)
        with pytest.raises(RuntimeError, match=r"it called sys\.exit\(0\)"):
            env.step(np.ones(1, np.float32))
        with pytest.raises(ValueError, match=r"first step fail with RuntimeError: it called"):
            env.examine()

    def test_an_environment_without_a_limit_works_with_one_of_the_runs(self) -> None:
        assert make("Endless", episode_length=5)[1].episode_length == 5

    def test_a_module_that_cannot_be_found_is_named_with_the_remedy(self) -> None:
        with pytest.raises(ValueError, match=r"No module named 'nowhere'.*PYTHONPATH"):
            make("nowhere:Walk")

    def test_what_never_takes_a_step_is_refused_when_examined(self) -> None:
        with pytest.raises(ValueError, match="RuntimeError: the cable is loose"):
            make("AlwaysRaises")[0].examine()
        with pytest.raises(ValueError, match="3 numbers, and the observation space has 2"):
            make("Wrong")[0].examine()

    def test_a_camera_is_the_environments_own_choice(self) -> None:
        with pytest.raises(ValueError, match="camera_id"):
            make("Walk", camera=1)


class TestExamination:
    def test_a_sound_environment_is_passed_in_silence(self) -> None:
        for name in ("Walk", "Asymmetric", "Nested", "RandomLength"):
            assert make(name)[0].examine() == []

    @pytest.mark.parametrize("name", ["Unseeded", "Counting"])
    def test_one_that_is_no_function_of_its_seed_is_told(self, name: str) -> None:
        remarks = make(name)[0].examine()
        assert any("do not give the same episode" in remark for remark in remarks)
        assert all(remark.startswith(f"env_id={name}-v0: ") for remark in remarks)

    def test_gymnasiums_own_check_is_passed_on(self) -> None:
        (remark, _) = make("Unseeded")[0].examine()
        assert "check_env says: AssertionError" in remark

    def test_one_that_fails_now_and_then_is_not_refused(self) -> None:
        assert make("Raises")[0].examine() == []


class TestPictures:
    def test_they_are_scaled_and_keep_their_proportions(self) -> None:
        env, _ = make("Walk")
        env.reset(seed=0)
        picture = env.render(20, 20)
        assert picture.shape == (20, 20, 3)
        assert (picture[5:15, :10] == (255, 0, 0)).all()
        assert not picture[:5].any()
        assert not picture[15:].any()
        assert not picture[:, 10:].any()

    def test_an_environment_is_seen_in_pixels(self) -> None:
        env, spec = make("Walk", "pixels")
        assert spec.obs_shape == (9, 84, 84)
        assert env.observation_space.contains(env.reset(seed=0)[0])

    @pytest.mark.parametrize("name", ["Blind", "Undrawn", "Floats"])
    def test_one_without_pictures_says_what_it_needs(self, name: str) -> None:
        env, _ = make(name)
        env.reset(seed=0)
        with pytest.raises(RuntimeError, match=rf"env_id={name}-v0: .*rgb_array"):
            env.render(20, 20)

    def test_a_film_is_in_real_time(self) -> None:
        assert make("Walk")[0].seconds_per_step == 1 / 20
        assert make("Floats")[0].seconds_per_step is None


@pytest.mark.parametrize("name", [f"{name}-v5" for name in NAMED] + ["Pendulum-v1"])
def test_gymnasiums_own_tasks_repeat_themselves_and_step(name: str) -> None:
    env, spec = make_env(task(name), "state")
    assert env.examine() == []
    env.reset(seed=0)
    obs, reward, *_ = env.step(env.action_space.sample())
    assert obs.shape == spec.obs_shape
    assert np.isfinite(reward)
    env.close()


def test_a_diverged_mujoco_simulation_is_reported_and_the_next_episode_is_sound() -> None:
    env, _ = make_env(task("HalfCheetah-v5"), "state")
    first, _ = env.reset(seed=0)
    env.simulator._env.unwrapped.data.qvel[:] = 1e11
    with pytest.raises(PhysicsError, match="diverged: mjWARN_BAD"):
        env.step(env.action_space.sample())
    assert np.array_equal(env.reset(seed=0)[0], first)
    env.step(env.action_space.sample())
    env.close()


@pytest.mark.usefixtures("rendering")
def test_a_mujoco_task_is_filmed() -> None:
    env, _ = make_env(task("Hopper-v5"), "state")
    env.reset(seed=0)
    assert env.render(64, 64).std() > 10
    env.close()


def test_a_module_in_the_current_folder_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = "import gymnasium as gym\nfrom gymnasium_fakes import Walk\n"
    module += "gym.register('Here-v0', entry_point=Walk, max_episode_steps=5)\n"
    elsewhere, here = tmp_path / "elsewhere", tmp_path / "here"
    for folder, text in ((elsewhere, ""), (here, module)):
        folder.mkdir()
        (folder / "module_of_that_name.py").write_text(text)
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, "path", [str(elsewhere), *sys.path])
    assert make("module_of_that_name:Here")[1].episode_length == 5
