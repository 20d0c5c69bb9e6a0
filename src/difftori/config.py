"""Reads a run's config: checks it, and derives what follows from it.

The keys of ``cfgs`` are flat; each of ``sections.py`` takes the keys it names, and a key may serve
several sections. Whatever no section names is an error, and so is a value outside its range.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from difftori.key_types import Section
from difftori.sections import (
    ActorConfig,
    EvaluationConfig,
    LearnerConfig,
    ModelConfig,
    MppiConfig,
    PlanGradientConfig,
    ReplayConfig,
    RunConfig,
    TaskConfig,
    TensorboardConfig,
    TrajectoryConfig,
    WandbConfig,
)


def backward_iterations(optimizer: str) -> int:
    """How many iterations ``backward_mode=truncated`` differentiates, by optimizer.

    The trust region's steps are as long as its model of the curvature says. More than one of them,
    with no look at whether it gains, may diverge where the model is too flat, and its derivative
    grows with each step.
    """
    return 1 if optimizer == "trust_region" else 5


def episodic_discount(episode_length: int | None, action_repeat: int) -> float:
    """TD-MPC2's discount for episodes of ``episode_length`` env steps (None: 1000).

    1 - 5 / agent steps, within [0.95, 0.995] (arXiv 2310.16828, appendix on hyperparameters).
    """
    agent_steps = (episode_length or 1000) / action_repeat
    return min(max(1 - 5 / agent_steps, 0.95), 0.995)


def folder_name(env_id: str | int | None) -> str:
    """A Gymnasium id as one folder's name: ``package:Mine-v0`` is ``package-Mine-v0``."""
    return re.sub(r"[^A-Za-z0-9_.=+-]+", "-", str(env_id or "gym")).lstrip("-.")


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    # presets count in agent steps what other keys count in env steps
    "times": lambda a, b: int(a) * int(b),
    "agent_steps": lambda a, b: int(a) // int(b),
    "backward_iterations": backward_iterations,
    "episodic_discount": episodic_discount,
    "folder_name": folder_name,
}
"""of ``${name:…}`` in ``cfgs``"""
for _name, _function in _FUNCTIONS.items():
    OmegaConf.register_new_resolver(_name, _function, replace=True)

CONFIG_DIR = Path(__file__).resolve().parents[2] / "cfgs"


class ConfigError(ValueError):
    """A key or a value that cannot be run; the message is one line for the user."""


class Config(Section):
    run: RunConfig
    env: TaskConfig
    model: ModelConfig
    actor: ActorConfig
    mppi: MppiConfig
    trajectory: TrajectoryConfig
    learner: LearnerConfig
    plan_gradient: PlanGradientConfig
    replay: ReplayConfig
    evaluation: EvaluationConfig
    wandb: WandbConfig
    tensorboard: TensorboardConfig

    def flat(self) -> dict[str, Any]:
        """The resolved keys as they stand in ``cfgs``, in plain types."""
        merged: dict[str, Any] = {}
        for name in type(self).model_fields:
            merged.update(getattr(self, name).model_dump(mode="json"))
        return merged


# Keys that only other keys refer to.
_HELPER_KEYS = {"modality_train_steps"}


def config_keys() -> set[str]:
    """Every key that a run understands."""
    return _HELPER_KEYS.union(*(section.model_fields for section in _sections().values()))


def _sections() -> dict[str, type[Section]]:
    fields = Config.model_fields.items()
    return {name: cast(type[Section], field.annotation) for name, field in fields}


def from_hydra(cfg: DictConfig, *, check_devices: bool = True) -> Config:
    """Read, check and freeze the composed config; looking for devices takes seconds.

    Raises:
        ConfigError: an unknown key or an impossible value, in one line.
    """
    try:
        flat = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        _check_counts(cfg)
        reason = str(error).splitlines()[0]
        key = getattr(error, "full_key", None)
        raise ConfigError(f"{key}: {reason}" if key else reason) from error
    assert isinstance(flat, dict)
    keys = {str(key): value for key, value in flat.items() if key != "hydra"}
    return from_flat(keys, check_devices=check_devices)


def _check_counts(cfg: DictConfig) -> None:
    """Name the key at fault: other keys are computed from these two before they are checked."""
    given = OmegaConf.to_container(cfg)
    assert isinstance(given, dict)
    for key in ("action_repeat", "episode_length"):
        value = given.get(key, 1)
        optional = key == "episode_length" and value is None
        computed = isinstance(value, str) and "${" in value
        if not (optional or computed or (type(value) is int and value >= 1)):
            raise ConfigError(f"{key}={value}: expected a whole number of 1 or more")


def from_flat(flat: Mapping[str, Any], *, check_devices: bool = True) -> Config:
    """The same from a plain dict of flat keys; raises ``ConfigError``."""
    known = config_keys()
    for key in flat:
        if key not in known:
            raise ConfigError(unknown_key(key, known))
    sections = {}
    for name, section in _sections().items():
        values = {key: flat[key] for key in section.model_fields if key in flat}
        try:
            sections[name] = section.model_validate(values)
        except ValidationError as error:
            raise ConfigError(first_problem(error)) from error
    config = Config.model_validate(sections)
    if config.plan_gradient.plan_gradient != "none" and config.actor.planner != "trajectory":
        raise ConfigError(
            f"plan_gradient={config.plan_gradient.plan_gradient} needs planner=trajectory: "
            "the sampling planner cannot be differentiated"
        )
    if config.run.overwrite and config.run.resume:
        raise ConfigError("overwrite=true needs resume=false: which of the two is meant?")
    if check_devices:
        _check_devices(config.run)
    return config


def unknown_key(key: str, known: Iterable[str], file: str = "default.yaml") -> str:
    """One line that refuses ``key`` and names the nearest known ones."""
    near = difflib.get_close_matches(key, sorted(known), n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else f"all keys are in cfgs/{file}"
    return f"unknown key '{key}'; {hint}"


def first_problem(error: ValidationError) -> str:
    """The first problem, as ``key=value: what is wrong``."""
    first = error.errors()[0]
    message = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:
        return message
    key = str(first["loc"][0])
    if first["type"] == "missing" and len(first["loc"]) == 1:
        return f"{key} is missing"
    return f"{key}={first['input']}: {message[:1].lower()}{message[1:]}"


def _check_devices(run: RunConfig) -> None:
    import torch  # here, so that a typo is refused before seconds of loading

    for key, name in (("device", run.device), ("buffer_device", run.buffer_device)):
        if not re.fullmatch(r"cpu|cuda(:\d+)?" + ("|auto" if key == "device" else ""), name):
            choices = "auto, cpu, cuda or cuda:N" if key == "device" else "cpu, cuda or cuda:N"
            raise ConfigError(f"{key}={name}: expected {choices}")
        if name.startswith("cuda"):
            found = torch.cuda.device_count()
            if int(name.partition(":")[2] or 0) >= found:
                raise ConfigError(f"{key}={name}: this machine has {found} CUDA devices")


def plain_defaults() -> dict[str, Any]:
    """The keys of ``cfgs/default.yaml`` whose values depend on no other key.

    A key that is younger than a run has had this value in it.
    """
    keys = OmegaConf.to_container(OmegaConf.load(CONFIG_DIR / "default.yaml"), resolve=False)
    assert isinstance(keys, dict)
    return {
        str(key): value
        for key, value in keys.items()
        if key not in ("defaults", "hydra") and "${" not in str(value)
    }


def compose(*overrides: str, **keys: Any) -> Config:
    """A config without a command line: group choices as ``"mode=back_plan"``, keys by name."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        cfg = hydra_compose("default", list(overrides))
    flat = OmegaConf.to_container(cfg)
    assert isinstance(flat, dict)
    return from_hydra(OmegaConf.create({**flat, **keys}))
