"""The only reader of the Hydra config: frozen typed sections, validation, derived values.

The keys of ``cfgs`` are flat; each section below takes the keys it names, and a key may serve
several sections. Whatever no section names is an error, and so is a value outside its range.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, cast

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

# Presets count in agent steps what other keys count in env steps.
OmegaConf.register_new_resolver("times", lambda a, b: int(a) * int(b), replace=True)

CONFIG_DIR = Path(__file__).resolve().parents[2] / "cfgs"


class ConfigError(ValueError):
    """A key or a value that cannot be run; the message is one line for the user."""


class Schedule(NamedTuple):
    """Linear from ``start`` to ``end`` over ``duration`` steps, then constant."""

    start: float
    end: float
    duration: float

    def __call__(self, step: int) -> float:
        mix = min(max(step / self.duration, 0.0), 1.0) if self.duration else 1.0
        return (1 - mix) * self.start + mix * self.end


def parse_schedule(value: object) -> object:
    """``linear(START, END, STEPS)`` or a number, which is constant."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return (value, value, 0)
    if not isinstance(value, str):
        return value
    number = r"\s*([-+]?[\d.]+(?:[eE][-+]?\d+)?)\s*"
    match = re.fullmatch(rf"\s*linear\({number},{number},{number}\)\s*", value)
    if match is None:
        raise ValueError("expected a number or linear(START, END, STEPS)")
    return tuple(float(part) for part in match.groups())


def _no_lookalikes(value: object) -> object:
    """pydantic would read 'true' as 1 and '5' as 5; a config says what it means."""
    if isinstance(value, (bool, str)):
        raise ValueError("expected a number")
    return value


def _plain_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.=+-]*", value):
        raise ValueError("expected letters, digits and _ . = + - (it names a folder)")
    return value


_number = BeforeValidator(_no_lookalikes)
Count = Annotated[int, _number, Field(ge=1)]
CountOrZero = Annotated[int, _number, Field(ge=0)]
Positive = Annotated[float, _number, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, _number, Field(ge=0, allow_inf_nan=False)]
Finite = Annotated[float, _number, Field(allow_inf_nan=False)]
Share = Annotated[float, _number, Field(ge=0, le=1)]
ScheduleField = Annotated[Schedule, BeforeValidator(parse_schedule)]
Planner = Literal["mppi", "trajectory"]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)


class RunConfig(Section):
    task: str
    modality: Literal["state", "pixels"]
    preset: str
    mode: str
    seed: CountOrZero
    exp_name: Annotated[str, BeforeValidator(str), BeforeValidator(_plain_name)]
    device: str
    buffer_device: str
    threads: Count | None
    log_dir: Path
    start_from: Path | None
    resume: bool
    overwrite: bool
    save_every_minutes: NonNegative
    save_model: bool
    train_steps: Count
    seed_steps: CountOrZero
    max_nonfinite: Count
    max_buffer_size: Count

    @property
    def folder(self) -> Path:
        return self.log_dir / self.task / self.modality / self.mode / self.exp_name / str(self.seed)


class TaskConfig(Section):
    task: str
    suite: str
    domain: str
    domain_task: str
    camera: CountOrZero
    action_repeat: Count
    episode_length: Count | None
    modality: Literal["state", "pixels"]
    frame_stack: Count
    img_size: Annotated[int, _number, Field(ge=48)]


class ModelConfig(Section):
    enc_dim: Count
    num_channels: Count
    mlp_dim: Count
    latent_dim: Count
    img_size: Count


class ActorConfig(Section):
    """Which planner acts when, and what every planner shares."""

    warmup_planner: Planner
    planner: Planner
    planner_start_step: CountOrZero
    theseus_start_step: CountOrZero
    discount: Share
    horizon: Count
    horizon_schedule: ScheduleField
    std_schedule: ScheduleField
    clip_actions: bool


class MppiConfig(Section):
    iterations: Count
    num_samples: Count
    num_elites: Count
    mixture_coef: NonNegative
    min_std: NonNegative
    temperature: NonNegative
    momentum: Share
    discount: Share

    @property
    def num_policy_samples(self) -> int:
        return int(self.mixture_coef * self.num_samples)

    @model_validator(mode="after")
    def _enough_candidates(self) -> "MppiConfig":
        candidates = self.num_samples + self.num_policy_samples
        if self.num_elites > candidates:
            raise ValueError(f"num_elites={self.num_elites} exceeds the {candidates} candidates")
        return self


class TrajectoryConfig(Section):
    max_iterations: Count
    step_size: Positive
    damping: NonNegative
    value_offset: Finite
    rel_err_tolerance: NonNegative
    backward_mode: Literal["truncated", "unroll"]
    backward_num_iterations: Count
    solver: Literal["residual", "published"]
    first_guess_noise: Literal["explore", "always", "never"]
    explore_noise: NonNegative
    min_std: NonNegative
    discount: Share

    @model_validator(mode="before")
    @classmethod
    def _explain_backward_modes(cls, data: Any) -> Any:
        mode = data.get("backward_mode") if isinstance(data, Mapping) else None
        if isinstance(mode, str) and mode in _REFUSED_BACKWARD_MODES:
            raise ValueError(
                f"backward_mode={mode} {_REFUSED_BACKWARD_MODES[mode]}; use truncated or unroll"
            )
        return data


_REFUSED_BACKWARD_MODES = {
    "implicit": "takes one undamped Gauss-Newton step, which is noise for a rank-one Hessian",
    "dlm": "cannot see the model's weights, which the cost closes over",
}


class LearnerConfig(Section):
    batch_size: Count
    horizon: Count
    lr: Positive
    consistency_coef: NonNegative
    reward_coef: NonNegative
    value_coef: NonNegative
    rho: Share
    discount: Share
    min_std: NonNegative
    grad_clip_norm: Positive
    update_freq: Count
    tau: Share
    augmentation: Literal["shift", "kornia", "none"]


class PlanGradientConfig(Section):
    plan_gradient: Literal["none", "episode", "step"]
    lr: Positive
    grad_clip_norm_a: Positive


class ReplayConfig(Section):
    max_buffer_size: Count
    per_alpha: NonNegative
    per_beta: NonNegative
    horizon: Count


class EvaluationConfig(Section):
    eval_freq: Count
    eval_episodes: Count
    save_video: bool


class WandbConfig(Section):
    use_wandb: bool
    wandb_project: str
    wandb_entity: str | None
    wandb_mode: Literal["online", "offline"]


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


def from_hydra(cfg: DictConfig) -> Config:
    """Read, check and freeze the composed config.

    Raises:
        ConfigError: an unknown key or an impossible value, in one line.
    """
    try:
        flat = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0]) from error
    assert isinstance(flat, dict)
    return from_flat({str(key): value for key, value in flat.items() if key != "hydra"})


def from_flat(flat: Mapping[str, Any]) -> Config:
    """The same from a plain dict of flat keys; raises ``ConfigError``."""
    for key in flat:
        if key not in config_keys():
            raise ConfigError(unknown_key(key, config_keys()))
    sections = {}
    for name, section in _sections().items():
        values = {key: flat[key] for key in section.model_fields if key in flat}
        try:
            sections[name] = section.model_validate(values)
        except ValidationError as error:
            raise ConfigError(one_line(error)) from error
    config = Config.model_validate(sections)
    _check_devices(config.run)
    return config


def unknown_key(key: str, known: Iterable[str], file: str = "default.yaml") -> str:
    """One line that refuses ``key`` and names the nearest known ones."""
    near = difflib.get_close_matches(key, sorted(known), n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else f"all keys are in cfgs/{file}"
    return f"unknown key '{key}'; {hint}"


def one_line(error: ValidationError) -> str:
    """The first problem, as ``key=value: what is wrong``."""
    first = error.errors()[0]
    message = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:
        return message
    key = str(first["loc"][0])
    if first["type"] == "missing":
        return f"{key} is missing"
    return f"{key}={first['input']}: {message[:1].lower()}{message[1:]}"


def _check_devices(run: RunConfig) -> None:
    for key, name in (("device", run.device), ("buffer_device", run.buffer_device)):
        if not re.fullmatch(r"cpu|cuda(:\d+)?" + ("|auto" if key == "device" else ""), name):
            choices = "auto, cpu, cuda or cuda:N" if key == "device" else "cpu, cuda or cuda:N"
            raise ConfigError(f"{key}={name}: expected {choices}")
        if name.startswith("cuda"):
            found = torch.cuda.device_count()
            if int(name.partition(":")[2] or 0) >= found:
                raise ConfigError(f"{key}={name}: this machine has {found} CUDA devices")


def compose(*overrides: str, **keys: Any) -> Config:
    """A config without a command line: group choices as ``"mode=back_plan"``, keys by name."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        cfg = hydra_compose("default", list(overrides))
    flat = OmegaConf.to_container(cfg)
    assert isinstance(flat, dict)
    return from_hydra(OmegaConf.create({**flat, **keys}))
