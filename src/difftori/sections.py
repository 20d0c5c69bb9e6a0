"""The sections of a config: which keys there are, their types and their ranges.

Each key is commented, with its unit, in ``cfgs/default.yaml``. A key that is younger than a run had
its value of that file in it (``config.plain_defaults``); those with a default here are young keys
whose value there refers to other keys.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from difftori.key_types import (
    Count,
    CountOrZero,
    Finite,
    NonNegative,
    Positive,
    Section,
    Share,
    number,
    plain_name,
)
from difftori.schedule import PositiveSchedule, Schedule, ScheduleField

Planner = Literal["mppi", "trajectory"]
GYMNASIUM = "gymnasium"
"""the suite whose environments are named by an id"""


class RunConfig(Section):
    task: str
    modality: Literal["state", "pixels"]
    preset: str
    agent: str = "published"
    mode: str
    seed: CountOrZero
    exp_name: Annotated[str, BeforeValidator(plain_name)]
    device: str
    buffer_device: str
    threads: Annotated[int, number, Field(ge=1, le=1024)] | None
    tf32: bool
    log_dir: Path
    compile: bool
    cuda_graphs: bool
    prefetch: bool
    start_from: Path | None
    resume: bool
    overwrite: bool
    save_every_minutes: NonNegative
    save_model: bool
    train_steps: Count
    seed_steps: CountOrZero
    seed_until_reward: bool
    novelty_until_reward: bool
    updates_per_step: Count
    update_within_episode: bool
    max_nonfinite: Count
    max_failed_episodes: Count

    @property
    def folder(self) -> Path:
        return self.log_dir / self.task / self.modality / self.mode / self.exp_name / str(self.seed)


def _survives_a_file(value: dict[str, Any]) -> dict[str, Any]:
    with suppress(TypeError, ValueError):
        if json.loads(json.dumps(value, allow_nan=False)) == value:
            return value
    raise ValueError(
        "a run's files hold finite numbers (1e9, not inf), words, lists, and maps with word keys"
    )


class TaskConfig(Section):
    """What an environment is made from."""

    task: str
    """what users type and what logs show, for example ``cup-catch``"""
    suite: str
    """which simulators it is of: a name in ``envs.SUITES``"""
    domain: str
    """the suite's own name of the body and its world, for example ``ball_in_cup``"""
    domain_task: str
    """the suite's own name of what is to be done, for example ``catch``"""
    camera: CountOrZero = 0
    action_repeat: Count
    episode_length: Count | None = None
    episodic: bool | None = None
    env_id: str | None = None
    env_kwargs: Annotated[dict[str, Any], AfterValidator(_survives_a_file)] | None = None
    modality: Literal["state", "pixels"] = "state"
    frame_stack: Count = 3
    img_size: Annotated[int, number, Field(ge=48)] = 84

    @property
    def from_pixels(self) -> bool:
        return self.modality == "pixels"

    @model_validator(mode="before")
    @classmethod
    def _ask_for_the_environment(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and data.get("domain_task", "") is None:
            raise ValueError("task=gym needs an environment: env_id=Pendulum-v1, or module:Mine-v0")
        return data

    @model_validator(mode="after")
    def _env_id_needs_its_suite(self) -> "TaskConfig":
        if self.env_id is not None and self.env_id != self.domain_task:
            raise ValueError(f"env_id={self.env_id} needs task=gym")
        if self.env_kwargs is not None and self.suite != GYMNASIUM:
            raise ValueError(f"env_kwargs is for Gymnasium's environments, not for {self.task}")
        return self


class ModelConfig(Section):
    enc_dim: Count
    num_channels: Count
    mlp_dim: Count
    latent_dim: Count
    layer_norm: bool
    normalize_observations: bool
    normalize_rewards: bool


class ActorConfig(Section):
    """Which planner acts when, and what every planner shares."""

    warmup_planner: Planner
    planner: Planner
    planner_start_step: CountOrZero
    theseus_start_step: CountOrZero
    horizon: Count
    horizon_schedule: ScheduleField
    std_schedule: ScheduleField
    clip_actions: bool


class MppiConfig(Section):
    plan_spread: Finite
    explore_spread: Finite = 0.0
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
    backward_mode: Literal["truncated", "unroll", "implicit", "dlm"]
    backward_num_iterations: Count
    optimizer: Literal["published", "trust_region"]
    trust_region_iterations: Count
    num_starts: Count
    num_candidates: CountOrZero
    last_plan_as_start: bool
    bound_softness: NonNegative
    plan_spread: Finite
    explore_spread: Finite = 0.0
    solver: Literal["residual", "published"]
    gradient: Literal["adjoint", "autograd"]
    first_guess_noise: Literal["explore", "always", "never"]
    explore_noise: ScheduleField | None
    std_schedule: ScheduleField = Schedule(0.05, 0.05, 0)
    min_std: NonNegative
    discount: Share

    def exploration_std(self, update_step: int) -> float:
        """Of the noise on an optimized action; ``explore_noise: null`` is each optimizer's own."""
        if self.explore_noise is not None:
            return self.explore_noise(update_step)
        return self.std_schedule(update_step) if self.optimizer == "trust_region" else 0.0

    @model_validator(mode="after")
    def _explain_backward_modes(self) -> "TrajectoryConfig":
        mode, offered = self.backward_mode, BACKWARD_MODES[self.optimizer]
        if mode not in offered:
            raise ValueError(
                f"backward_mode={mode} does not go with optimizer={self.optimizer}: "
                f"{_NOT_OFFERED[mode]}; use {' or '.join(offered)}"
            )
        return self

    @model_validator(mode="after")
    def _room_for_candidates(self) -> "TrajectoryConfig":
        if self.num_starts == 1 and (self.num_candidates > 0 or self.last_plan_as_start):
            raise ValueError(
                "num_starts=1 is the policy's rollout alone: num_candidates and "
                "last_plan_as_start need num_starts=2 or more"
            )
        return self


BACKWARD_MODES = {"published": ("truncated", "unroll"), "trust_region": ("truncated", "implicit")}
_NOT_OFFERED = {
    "implicit": "it takes one undamped Gauss-Newton step, which is noise for a rank-one Hessian",
    "unroll": "its starts are found without a graph",
    "dlm": "it cannot see the model's weights, which the cost closes over",
}


class LearnerConfig(Section):
    batch_size: Count
    horizon: Count
    lr: PositiveSchedule
    consistency_coef: NonNegative
    reward_coef: NonNegative
    value_coef: NonNegative
    termination_coef: NonNegative
    target_spread: Finite
    rho: Share
    discount: Share
    min_std: NonNegative
    grad_clip_norm: Positive
    update_freq: Count
    tau: Share
    augmentation: Literal["shift", "kornia", "none"]
    precision: Literal["fp32", "bf16"]


class PlanGradientConfig(Section):
    plan_gradient: Literal["none", "episode", "step", "replay"]
    lr: PositiveSchedule
    plan_lr: PositiveSchedule | None
    grad_clip_norm_a: Positive
    grad_clip_norm_a_buffer: Positive
    frequency: Count
    sample_update: Count
    plan_loss_coef: NonNegative


class ReplayConfig(Section):
    max_buffer_size: Count
    per_alpha: Share
    per_beta: NonNegative
    horizon: Count


class EvaluationConfig(Section):
    eval_freq: Count
    eval_episodes: Count
    save_video: bool


def _tags(value: object) -> object:
    """One tag, or a list of them."""
    if isinstance(value, (str, int, float)):
        value = [value]
    if isinstance(value, (list, tuple)):
        tags = tuple(str(tag) for tag in value)
        if all(1 <= len(tag) <= 64 for tag in tags):  # W&B refuses others when the run begins
            return tags
    raise ValueError("expected tags of 1 to 64 characters, as in wandb_tags=[first,second]")


class WandbConfig(Section):
    use_wandb: bool
    wandb_project: str
    wandb_entity: str | None
    wandb_mode: Literal["online", "offline"]
    wandb_group: str | None = None
    wandb_tags: Annotated[tuple[str, ...], BeforeValidator(_tags)]
    wandb_artifact: bool


class TensorboardConfig(Section):
    use_tensorboard: bool
