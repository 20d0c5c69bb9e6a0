"""Builds the parts of a run from its config."""

from collections.abc import Callable

import torch

from difftori.checkpoints.checkpoint import Checkpointer
from difftori.checkpoints.published_weights import load_published
from difftori.compiling.compiler import Compiler
from difftori.config import Config, ConfigError
from difftori.envs import ControlEnv, TaskSpec, make_env
from difftori.learning.learner import Learner
from difftori.learning.plan_gradient import PlanGradient
from difftori.model.world_model import WorldModel
from difftori.monitoring.console import ConsoleReporter
from difftori.monitoring.metrics import Metrics
from difftori.replay import ReplayBuffer
from difftori.training.resources import announce, checkpoint_bytes
from difftori.training.seeding import RandomStreams
from difftori.training.signals import StopSignals
from difftori.training.trainer import Parts, Trainer
from difftori.types import EnvSpec


def env_factory(config: Config) -> Callable[[], tuple[ControlEnv, EnvSpec]]:
    """Gives new environments of the config's task.

    Raises:
        ConfigError: when called, for a task, a modality or a renderer that is not to be had.
    """
    env = config.env
    task = TaskSpec(
        name=env.task,
        suite=env.suite,
        domain=env.domain,
        domain_task=env.domain_task,
        action_repeat=env.action_repeat,
        camera=env.camera,
        episode_length=env.episode_length,
    )

    def build() -> tuple[ControlEnv, EnvSpec]:
        try:
            return make_env(task, env.modality, frame_stack=env.frame_stack, img_size=env.img_size)
        except (ValueError, RuntimeError, ImportError) as error:
            raise ConfigError(str(error)) from error

    return build


def resolve_device(name: str) -> torch.device:
    """``auto`` is the GPU where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def build_trainer(
    config: Config,
    *,
    console: ConsoleReporter,
    metrics: Metrics,
    signals: StopSignals,
) -> Trainer:
    """Wire a run: environment, model, learner, buffer, checkpoints; restores the latest one.

    Raises:
        ConfigError: a setting that the environment or the checkpoint does not allow.
        CheckpointError: there are checkpoints, and none can be used.
    """
    device = resolve_device(config.run.device)
    build_env = env_factory(config)
    env, spec = build_env()
    _check(config, env, spec)
    streams = RandomStreams(config.run.seed, device)
    model = WorldModel(spec, config.model).to(device)
    checkpointer = Checkpointer(
        config.run.folder,
        spec,
        config.flat(),
        every_minutes=config.run.save_every_minutes,
        console=console,
    )
    replay_bytes, weight_bytes = checkpointer.episode_bytes, checkpoint_bytes(model)
    announce(config, spec, device, replay_bytes, weight_bytes, console)
    max_nonfinite = config.run.max_nonfinite
    plan_gradient = None
    if config.plan_gradient.plan_gradient != "none":
        plan_gradient = PlanGradient(model, config.plan_gradient, max_nonfinite=max_nonfinite)
    compiler = Compiler(config.run.compile, announce=console.info, warn=console.warn)
    parts = Parts(
        env=env,
        make_env=lambda: build_env()[0],
        model=model,
        learner=Learner(
            model,
            config.learner,
            generator=streams.learning,
            max_nonfinite=max_nonfinite,
            compiler=compiler,
        ),
        compiler=compiler,
        plan_gradient=plan_gradient,
        buffer=ReplayBuffer(
            spec,
            capacity=config.replay.max_buffer_size,
            horizon=config.replay.horizon,
            alpha=config.replay.per_alpha,
            beta=config.replay.per_beta,
            storage_device=config.run.buffer_device,
            compute_device=device,
            generator=streams.replay,
        ),
        streams=streams,
        metrics=metrics,
        checkpointer=checkpointer,
        console=console,
        signals=signals,
    )
    trainer = Trainer(config, spec, parts)
    _restore(config, trainer, parts)
    return trainer


def _check(config: Config, env: ControlEnv, spec: EnvSpec) -> None:
    """Refuse what only the environment itself can tell."""
    if spec.episode_length <= config.learner.horizon:
        raise ConfigError(
            f"horizon={config.learner.horizon} needs episodes longer than that; those of "
            f"{spec.task} have {spec.episode_length} agent steps"
        )
    if spec.modality == "pixels":
        try:
            env.reset(seed=0)
        except Exception as error:  # the renderer may raise anything
            raise ConfigError(
                f"camera={config.env.camera} img_size={config.env.img_size}: "
                f"{spec.task} cannot be filmed so: {error}"
            ) from error


def _restore(config: Config, trainer: Trainer, parts: Parts) -> None:
    """From the run's own latest checkpoint, else from ``start_from``, else from nothing."""
    console, start_from = parts.console, config.run.start_from
    tree = parts.checkpointer.latest()
    if tree is None:
        parts.metrics.load_state_dict({"metrics_records": 0, "eval_records": 0})
        if start_from is not None:
            load_published(start_from, parts.model, parts.learner, console)
        return
    parts.checkpointer.load_buffer(tree, parts.buffer)
    trainer.load_state_dict(tree)
    counters = trainer.counters
    ignored = f"; start_from={start_from} is not read again" if start_from else ""
    if counters.env_step >= config.run.train_steps and counters.phase == "acting":
        console.info(f"nothing left to do: the run is at {counters.env_step:,} env steps")
        return
    console.info(
        f"resumed at episode {counters.episode}, agent step {counters.agent_step:,}, "
        f"update {counters.update:,}{ignored}"
    )
