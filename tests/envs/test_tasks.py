"""The task files: complete, consistent, and with the published numbers."""

from pathlib import Path

import gymnasium
import pytest
from omegaconf import OmegaConf

from difftori.config import plain_defaults
from difftori.envs.rendering import importing_mujoco

with importing_mujoco():
    from dm_control import suite
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

ROOT = Path(__file__).parents[2]
FILES = {path.stem: path for path in sorted((ROOT / "cfgs" / "task").glob("*.yaml"))}
CONFIGS = {name: OmegaConf.load(path) for name, path in FILES.items()}
SOLVER = ("max_iterations", "step_size", "damping")
"""a file has only those of them that differ from the default"""

# action_repeat, max_iterations, step_size, damping
PUBLISHED = {
    "cartpole-swingup-sparse": (8, 50, 1e-3, 0.5),
    "cheetah-run": (2, 100, 1e-4, 0.001),
    "cup-catch": (2, 100, 1e-4, 0.01),
    "finger-spin": (2, 100, 1e-4, 0.01),
    "finger-turn-easy": (2, 50, 1e-3, 0.1),
    "finger-turn-hard": (2, 50, 1e-3, 0.1),
    "hopper-stand": (4, 50, 1e-3, 0.01),
    "pendulum-swingup": (2, 100, 1e-4, 0.001),
    "quadruped-run": (4, 100, 1e-4, 0.1),
    "quadruped-walk": (4, 100, 1e-4, 0.1),
    "reacher-easy": (4, 100, 1e-4, 0.01),
    "reacher-hard": (4, 100, 1e-4, 0.01),
    "walker-run": (2, 200, 3e-5, 0.001),
    "walker-stand": (2, 100, 1e-4, 0.01),
    "walker-walk": (2, 100, 1e-4, 0.01),
}
BY_DOMAIN = {
    "cartpole": (8, 50, 1e-3, 0.5),
    "dog": (2, 50, 1e-3, 0.001),
    "humanoid": (2, 50, 1e-3, 0.001),
    "humanoid_CMU": (2, 50, 1e-3, 0.001),
}
OTHERWISE = (4, 50, 1e-3, 0.001)
METAWORLD = {
    "suite": "metaworld",
    "domain": "sawyer",
    "camera": 4,  # corner4: the position that pixel papers move corner2 to
    "action_repeat": 2,
    "episode_length": 200,  # 100 agent steps
    "train_steps": 1_000_000,
}
GYMNASIUM = {
    "gym-ant": ("Ant-v5", True),
    "gym-halfcheetah": ("HalfCheetah-v5", False),
    "gym-hopper": ("Hopper-v5", True),
    "gym-inverted-double-pendulum": ("InvertedDoublePendulum-v5", True),
    "gym-inverted-pendulum": ("InvertedPendulum-v5", True),
    "gym-pendulum": ("Pendulum-v1", False),
    "gym-walker2d": ("Walker2d-v5", True),
}
"""the environment, and whether its episodes can end by themselves"""
SIZES = {
    "dog": {
        "iterations": 8,
        "latent_dim": 100,
        "batch_size": 2048,
        "lr": 3e-4,
        "train_steps": 5_000_000,
    },
    "humanoid": {"iterations": 12, "latent_dim": 100, "train_steps": 3_000_000},
    "humanoid_CMU": {"iterations": 12, "latent_dim": 100, "train_steps": 3_000_000},
    "quadruped": {"camera": 2},
}
ALWAYS = {"task", "suite", "domain", "domain_task", "action_repeat"}


def test_the_list_of_tasks_is_the_folder() -> None:
    """``gym`` is no task of its own: it needs the name of an environment."""
    assert (ROOT / "tasks.txt").read_text().splitlines() == sorted(set(FILES) - {"gym"})


def test_every_task_of_the_suite_that_ends_has_a_file() -> None:
    named = [
        (config.domain, config.domain_task)
        for config in CONFIGS.values()
        if config.suite == "dmcontrol"
    ]
    assert sorted(named) == sorted(names for names in suite.ALL_TASKS if names[0] != "lqr")
    assert set(PUBLISHED) <= set(CONFIGS)


@pytest.mark.parametrize("name", [n for n in CONFIGS if CONFIGS[n].suite == "dmcontrol"])
def test_a_file_says_what_was_published(name: str) -> None:
    config = CONFIGS[name]
    domain, defaults = config.domain, plain_defaults()
    own = {key: config[key] for key in SOLVER if key in config}
    settings = (config.action_repeat, *({**defaults, **own}[key] for key in SOLVER))
    assert FILES[name].read_text().startswith("# @package _global_\n")
    assert config.task == name
    assert settings == PUBLISHED.get(name, BY_DOMAIN.get(domain, OTHERWISE))
    assert [type(value) for value in settings] == [int, int, float, float]
    assert all(value != defaults[key] for key, value in own.items())
    sizes = SIZES.get(domain, {})
    assert {key: config[key] for key in config if key not in {*ALWAYS, *SOLVER}} == sizes


def test_every_task_of_metaworld_has_a_file_under_its_short_name() -> None:
    short = {name: config for name, config in CONFIGS.items() if config.suite == "metaworld"}
    own = {f"mw-{name.removesuffix('-v3')}": name for name in ALL_V3_ENVIRONMENTS}
    assert {name: config.domain_task for name, config in short.items()} == own
    assert len(own) == 50


@pytest.mark.parametrize("name", [n for n in CONFIGS if CONFIGS[n].suite == "metaworld"])
def test_a_metaworld_file_says_what_was_published_and_the_defaults(name: str) -> None:
    config = CONFIGS[name]
    assert FILES[name].read_text().startswith("# @package _global_\n")
    assert config.task == name
    assert {k: v for k, v in config.items() if k not in ("task", "domain_task")} == METAWORLD


@pytest.mark.parametrize("name", GYMNASIUM)
def test_a_gymnasium_file_has_its_tasks_own_time_limit_and_the_default_solver(name: str) -> None:
    env_id, can_end = GYMNASIUM[name]
    limit = gymnasium.spec(env_id).max_episode_steps
    assert CONFIGS[name] == {
        "task": name,
        "suite": "gymnasium",
        "domain": "gymnasium",
        "domain_task": env_id,
        "action_repeat": 1,
        "episode_length": limit,
        "normalize_rewards": True,
        **({} if can_end else {"episodic": False}),
    }
