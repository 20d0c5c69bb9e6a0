import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pydantic import ValidationError

from builders import tiny_config
from difftori.config import (
    CONFIG_DIR,
    Config,
    ConfigError,
    compose,
    config_keys,
    episodic_discount,
    from_flat,
)
from difftori.schedule import Schedule, parse_schedule

DEFAULT = CONFIG_DIR / "default.yaml"
GROUP_FILES = sorted(
    path
    for group in ("task", "modality", "preset", "agent", "mode")
    for path in (CONFIG_DIR / group).glob("*")
)
FLAT = tiny_config().flat()


def keys_of(path: Path) -> set[str]:
    return set(yaml.safe_load(path.read_text()) or {}) - {"defaults", "hydra"}


def change(**keys: Any) -> Config:
    return from_flat({**FLAT, **keys})


# Values that cannot be run

REFUSED = [
    ("horizon", 0),
    ("horizon", 2.5),
    ("damping", float("nan")),
    ("step_size", 0),
    ("train_steps", -5),
    ("train_steps", True),
    ("lr", "abc"),
    ("lr", -1e-3),
    ("lr", None),
    ("lr", "linear(1e-3, 0, 100)"),
    ("discount", 1.1),
    ("modality", "smell"),
    ("plan_gradient", "sometimes"),
    ("device", "cuda:x"),
    ("buffer_device", "auto"),
    ("backward_mode", "nonsense"),
    ("num_elites", 10_000),
    ("seed", -1),
    ("img_size", 20),
    ("exp_name", "a/b"),
    ("exp_name", ".."),
    ("wandb_tags", ["", "paper"]),
    ("wandb_tags", "x" * 65),
    ("value_offset", float("inf")),
]


@pytest.mark.parametrize(("key", "value"), REFUSED, ids=[f"{k}={v}" for k, v in REFUSED])
def test_a_value_that_cannot_be_run_is_refused_in_one_line(key: str, value: object) -> None:
    with pytest.raises(ConfigError) as refused:
        change(**{key: value})
    message = str(refused.value)
    assert f"{key}={value}" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("preset", "key", "value"),
    [
        ("small", "action_repeat", 0),
        ("small", "action_repeat", None),
        ("debug", "action_repeat", "abc"),
        ("small", "episode_length", "abc"),
    ],
)
def test_a_number_that_other_keys_are_computed_from_is_named(
    preset: str, key: str, value: object
) -> None:
    with pytest.raises(ConfigError, match=f"^{key}={value}: expected a whole number"):
        compose(f"preset={preset}", **{key: value})


@pytest.mark.skipif(
    torch.cuda.is_available(), reason="there is a GPU, and cuda is refused only where there is none"
)
@pytest.mark.parametrize("key", ["device", "buffer_device"])
@pytest.mark.parametrize("value", ["cuda", "cuda:7"])
def test_a_gpu_that_is_not_there_is_refused(key: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"{key}={value}: this machine has 0 CUDA devices"):
        change(**{key: value})


@pytest.mark.parametrize(("mode", "why"), [("implicit", "Gauss-Newton"), ("dlm", "closes over")])
def test_refused_backward_modes_say_why_and_what_to_use(mode: str, why: str) -> None:
    with pytest.raises(ConfigError, match=rf"backward_mode={mode} .*{why}.*use truncated"):
        change(backward_mode=mode)


@pytest.mark.parametrize(
    ("length", "repeat", "discount"),
    [(1000, 2, 0.99), (1000, 4, 0.98), (None, 4, 0.98), (100, 2, 0.95), (5000, 1, 0.995)],
)
def test_the_discount_follows_the_length_of_episodes(
    length: int | None, repeat: int, discount: float
) -> None:
    """One less five over the agent steps, from 0.95 to 0.995."""
    assert episodic_discount(length, repeat) == pytest.approx(discount)
    run = compose("preset=small", episode_length=length, action_repeat=repeat)
    assert run.learner.discount == pytest.approx(discount)


@pytest.mark.parametrize("repeat", [1, 2, 4, 8])
def test_the_small_presets_schedules_count_env_steps(repeat: int) -> None:
    run = compose("preset=small", action_repeat=repeat)
    assert run.run.seed_steps * repeat == 4_000
    assert run.flat()["theseus_start_step"] * repeat == 10_000
    for schedule in (run.actor.horizon_schedule, run.actor.std_schedule):
        assert isinstance(schedule, Schedule)
        assert schedule.duration * repeat == 12_000


def test_rewards_of_gymnasium_alone_are_normalized() -> None:
    assert compose("task=gym", "env_id=Hopper-v5").model.normalize_rewards
    assert not compose("task=cup-catch").model.normalize_rewards


def test_choices_are_named() -> None:
    with pytest.raises(ConfigError, match=r"state.*pixels"):
        change(modality="smell")
    with pytest.raises(ConfigError, match="auto, cpu, cuda or cuda:N"):
        change(device="gpu")


def test_too_many_elites_are_told_how_many_there_are() -> None:
    with pytest.raises(ConfigError, match="num_elites=34 exceeds the 33 candidates"):
        change(num_samples=32, mixture_coef=0.05, num_elites=34)
    assert change(num_samples=32, mixture_coef=0.05, num_elites=33).mppi.num_elites == 33


@pytest.mark.parametrize("value", [float("inf"), {1: 2}, [0.5, float("nan")]])
def test_what_a_runs_files_cannot_hold_is_refused(value: object) -> None:
    gym = ("task=gym", "env_id=Hopper-v5", "mode=default")
    assert compose(*gym, env_kwargs={"range": [0.5, {"a": 1}]}).flat()["env_kwargs"]
    with pytest.raises(ConfigError, match=r"env_kwargs=.*finite numbers"):
        compose(*gym, env_kwargs={"range": value})


def test_a_missing_key_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^damping is missing$"):
        from_flat({k: v for k, v in FLAT.items() if k != "damping"})


def test_an_unknown_key_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'dampng'; did you mean .*\bdamping\b"):
        change(dampng=1)


def test_an_unknown_key_like_no_other_names_where_all_are() -> None:
    with pytest.raises(
        ConfigError, match=r"unknown key 'xyzzyx'; all keys are in cfgs/default\.yaml"
    ):
        change(xyzzyx=1)


# Schedules


@pytest.mark.parametrize(
    ("text", "schedule"),
    [
        ("linear(1, 5, 25000)", (1, 5, 25000)),
        ("linear(0.5,0.05,1e3)", (0.5, 0.05, 1000)),
        (" linear( 1 , +2.5 , 10 ) ", (1, 2.5, 10)),
        (3, (3, 3, 0)),
        (0.25, (0.25, 0.25, 0)),
    ],
)
def test_schedules(text: object, schedule: tuple[float, float, float]) -> None:
    assert change(std_schedule=text).actor.std_schedule == schedule


def test_a_ramp_between_equal_numbers_is_constant() -> None:
    schedule = Schedule(5, 5, 25_000)
    assert {schedule(step) for step in range(25_001)} == {5}


@pytest.mark.parametrize(
    "text",
    [
        "linear(1, 2)",
        "linear(1, 2, three)",
        "linear(1, 2, 3); 4",
        "cosine(1, 2, 3)",
        "1",
        "linear(__import__('os'),1,2)",
        "linear(nan, 2, 3)",
        "linear(-1, 2, 3)",
        -0.5,
        True,
        [1, 2],
        ["a", "b", "c"],
        [True, False, 1],
    ],
)
def test_what_is_not_a_schedule_is_refused(text: object) -> None:
    with pytest.raises(ConfigError) as refused:
        change(std_schedule=text)
    assert "std_schedule=" in str(refused.value)
    assert "\n" not in str(refused.value)


# a negative duration would stay at its start for ever, and an infinite one would never move
@pytest.mark.parametrize("key", ["std_schedule", "horizon_schedule"])
@pytest.mark.parametrize(
    "value",
    ["linear(1, 2, -10)", float("nan"), float("inf"), "linear(1, 2, 1e999)", [1.0, 2.0, -3.0]],
)
def test_a_schedule_that_cannot_be_run_is_refused(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=key):
        change(**{key: value})


def test_a_schedule_is_shown_as_it_is_written() -> None:
    for text in ("linear(0.5, 0.05, 25000)", "0.001"):
        parsed = parse_schedule(text if "(" in text else float(text))
        assert str(parsed) == text


def test_overwriting_and_resuming_at_once_is_refused() -> None:
    with pytest.raises(ConfigError, match="overwrite=true needs resume=false"):
        compose(device="cpu", overwrite=True)
    assert compose(device="cpu", overwrite=True, resume=False).run.overwrite


def test_a_schedule_is_linear_and_then_constant() -> None:
    schedule = Schedule(1.0, 5.0, 100.0)
    assert [schedule(step) for step in (-5, 0, 25, 50, 100, 1000)] == [1, 1, 2, 3, 5, 5]
    assert Schedule(0.3, 0.3, 0.0)(0) == pytest.approx(0.3)


# The whole


def test_is_frozen_all_the_way_down() -> None:
    config = change()
    with pytest.raises(ValidationError):
        config.run = config.run
    for name in type(config).model_fields:
        section = getattr(config, name)
        field = next(iter(type(section).model_fields))
        with pytest.raises(ValidationError):
            setattr(section, field, getattr(section, field))


@pytest.mark.parametrize("mode", sorted(p.stem for p in (CONFIG_DIR / "mode").glob("*.yaml")))
@pytest.mark.parametrize("modality", ["state", "pixels"])
def test_flat_round_trips(mode: str, modality: str) -> None:
    config = compose(f"mode={mode}", f"modality={modality}", device="cpu")
    assert from_flat(config.flat()) == config
    assert from_flat(json.loads(json.dumps(config.flat()))) == config


def test_flat_has_every_key_that_a_section_names() -> None:
    assert FLAT.keys() == config_keys() - {"modality_train_steps"}


def test_published_values() -> None:
    config = compose("task=cheetah-run", device="cpu")
    trajectory = config.trajectory
    assert (trajectory.max_iterations, trajectory.step_size, trajectory.damping) == (
        100,
        1e-4,
        0.001,
    )
    assert config.env.action_repeat == 2
    assert (config.run.train_steps, config.learner.lr(0), config.learner.batch_size) == (
        500_000,
        1e-3,
        512,
    )
    pixels = compose("modality=pixels", device="cpu")
    assert (pixels.run.train_steps, pixels.learner.lr(0), pixels.learner.batch_size) == (
        1_000_000,
        3e-4,
        256,
    )
    assert config.actor.horizon_schedule == (1, 5, 25000)
    assert config.actor.std_schedule == (0.5, 0.05, 25000)
    assert config.actor.planner_start_step == config.actor.theseus_start_step == 6000


def test_the_run_folder_holds_what_tells_runs_apart() -> None:
    run = change(exp_name="trial", seed=7, log_dir="out").run
    assert run.folder == Path("out", run.task, run.modality, run.mode, "trial", "7")


def test_an_exp_name_that_looks_like_a_number_is_a_name() -> None:
    assert change(exp_name=2024).run.exp_name == "2024"


def test_runs_that_differ_by_their_seed_are_one_group() -> None:
    config = compose("task=cheetah-run", device="cpu", exp_name="2024", wandb_tags="paper")
    assert config.wandb.wandb_group == "cheetah-run-state-back_plan-2024"
    assert config.wandb.wandb_tags == ("paper",)
    assert compose(device="cpu", wandb_group="mine").wandb.wandb_group == "mine"


# The files


@pytest.mark.parametrize("path", [DEFAULT, *GROUP_FILES], ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_every_key_of_a_file_is_known(path: Path) -> None:
    assert keys_of(path) <= config_keys()


def test_every_known_key_is_in_a_file() -> None:
    written = set().union(*(keys_of(path) for path in (DEFAULT, *GROUP_FILES)))
    assert config_keys() - written == set()


def test_every_key_of_the_default_file_has_a_comment() -> None:
    bare = []
    for line in DEFAULT.read_text().partition("\nhydra:")[0].splitlines():
        if line and line[0].isalpha() and not line.startswith("defaults:") and " #" not in line:
            bare.append(line)
    assert bare == []


def test_each_optimizer_differentiates_as_many_iterations_as_it_should() -> None:
    assert compose().trajectory.backward_num_iterations == 5  # published
    assert compose("optimizer=trust_region").trajectory.backward_num_iterations == 1
    assert compose("agent=tuned").trajectory.backward_num_iterations == 1
    both = compose("agent=tuned", "backward_num_iterations=3")
    assert both.trajectory.backward_num_iterations == 3
