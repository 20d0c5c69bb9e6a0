"""Builds the parts of a run from its config."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from difftori.config import Config, ConfigError
from difftori.envs import ControlEnv, TaskSpec, make_env
from difftori.learning.learner import Learner
from difftori.learning.plan_gradient import PlanGradient
from difftori.model.world_model import WorldModel
from difftori.replay import ReplayBuffer, memory_bytes
from difftori.run.checkpoint import Checkpointer
from difftori.run.console import ConsoleReporter
from difftori.run.metrics import Metrics
from difftori.run.seeding import RandomStreams
from difftori.run.signals import StopSignals
from difftori.run.trainer import Trainer
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
) -> tuple[Trainer, EnvSpec]:
    """Wire a run: environment, model, learner, buffer, checkpoints; restores the latest one.

    Raises:
        ConfigError: a setting that the environment or the checkpoint does not allow.
        CheckpointError: there are checkpoints, and none can be used.
    """
    device = resolve_device(config.run.device)
    build_env = env_factory(config)
    env, spec = build_env()
    if spec.episode_length <= config.learner.horizon:
        raise ConfigError(
            f"horizon={config.learner.horizon} needs episodes longer than that; those of "
            f"{spec.task} have {spec.episode_length} agent steps"
        )
    streams = RandomStreams(config.run.seed, device)
    model = WorldModel(spec, config.model).to(device)
    learner = Learner(
        model,
        config.learner,
        generator=streams.learning,
        max_nonfinite=config.run.max_nonfinite,
    )
    has_gradient = config.plan_gradient.plan_gradient != "none"
    plan_gradient = (
        PlanGradient(model, config.plan_gradient, max_nonfinite=config.run.max_nonfinite)
        if has_gradient
        else None
    )
    buffer = ReplayBuffer(
        spec,
        capacity=config.replay.max_buffer_size,
        horizon=config.replay.horizon,
        alpha=config.replay.per_alpha,
        beta=config.replay.per_beta,
        storage_device=config.run.buffer_device,
        compute_device=device,
        generator=streams.replay,
    )
    checkpointer = Checkpointer(
        config.run.folder,
        spec,
        config.flat(),
        every_minutes=config.run.save_every_minutes,
        console=console,
    )
    trainer = Trainer(
        config,
        spec,
        env=env,
        make_env=lambda: build_env()[0],
        model=model,
        learner=learner,
        plan_gradient=plan_gradient,
        buffer=buffer,
        streams=streams,
        metrics=metrics,
        checkpointer=checkpointer,
        console=console,
        signals=signals,
    )
    replay_bytes = checkpointer.episode_bytes
    announce(config, spec, device, replay_bytes, checkpoint_bytes(model), console)
    _restore(config, trainer, checkpointer, model, learner, buffer, metrics, console)
    return trainer, spec


def _restore(
    config: Config,
    trainer: Trainer,
    checkpointer: Checkpointer,
    model: WorldModel,
    learner: Learner,
    buffer: ReplayBuffer,
    metrics: Metrics,
    console: ConsoleReporter,
) -> None:
    """From the run's own latest checkpoint, else from ``start_from``, else from nothing."""
    tree = checkpointer.latest()
    start_from = config.run.start_from
    if tree is None:
        metrics.load_state_dict({"metrics_records": 0, "eval_records": 0})
        if start_from is not None:
            load_published(start_from, model, learner, console)
        return
    checkpointer.load_buffer(tree, buffer)
    trainer.load_state_dict(tree)
    counters = trainer.counters
    ignored = f"; start_from={start_from} is not read again" if start_from else ""
    console.info(
        f"resumed at episode {counters.episode}, agent step {counters.agent_step:,}, "
        f"update {counters.update:,}{ignored}"
    )


def announce(
    config: Config,
    spec: EnvSpec,
    device: torch.device,
    episode_bytes: int,
    checkpoint_bytes: int,
    console: ConsoleReporter,
) -> None:
    """What will run and what it will take, before anything slow; refuses what cannot fit.

    Raises:
        ConfigError: the buffer would outgrow the machine's memory before the run ends.
    """
    run = config.run
    where = f"{device}" + (f" ({torch.get_num_threads()} threads)" if device.type == "cpu" else "")
    steps = min(config.replay.max_buffer_size, -(-run.train_steps // spec.action_repeat))
    need = memory_bytes(spec, steps)
    disk = episode_bytes * -(-steps // spec.episode_length) + 3 * checkpoint_bytes
    console.info(
        f"{spec.task} from {spec.modality}, mode {run.mode}, preset {run.preset}, "
        f"seed {run.seed}, on {where}"
    )
    console.info(
        f"{run.train_steps:,} env steps, action repeat {spec.action_repeat}, "
        f"{spec.episode_length} agent steps an episode"
    )
    console.info(
        f"replay buffer: up to {format_bytes(need)} of memory, for {steps:,} agent steps; "
        f"on disk, with three checkpoints: up to {format_bytes(disk)}"
    )
    console.info(f"run folder: {run.folder}")
    if device.type == "cpu" and torch.cuda.is_available():
        console.info("a GPU stands idle: device=cpu computes on the CPU; device=cuda uses the GPU")
    room = available_memory() if run.buffer_device == "cpu" else None
    if room is not None and need > room:
        raise ConfigError(
            f"the replay buffer needs {format_bytes(need)}, and this machine has "
            f"{format_bytes(room)} free; lower max_buffer_size or train_steps"
        )


def checkpoint_bytes(model: WorldModel) -> int:
    """About what one checkpoint takes beside the replay data.

    Model and target, two Adams with two moments each, and the plan's gradient.
    """
    return 7 * sum(p.numel() * p.element_size() for p in model.parameters())


def available_memory() -> int | None:
    """Bytes of memory that can be had without swapping; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
        return pages * size if pages > 0 else None
    fields = dict(line.split(":") for line in lines)
    return int(fields["MemAvailable"].split()[0]) * 1024


def format_bytes(count: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def load_published(
    path: Path, model: WorldModel, learner: Learner, console: ConsoleReporter
) -> None:
    """Begin from a ``{'model', 'model_target'}`` file: ours, DiffTORI's or TD-MPC's.

    TD-MPC's has no observation critics; they stay as initialised.

    Raises:
        ConfigError: the file cannot be read, or is of another architecture.
    """
    weights = read_weights(path)
    for name, network in (("model", model), ("model_target", learner.target)):
        missing = _load_weights(path, name, weights.get(name), network)
    if missing:
        console.info(f"{path} has no observation critics (TD-MPC's files have none): they are new")
    console.info(f"weights from {path}")


def read_weights(path: Path) -> dict[str, Any]:
    """The file's content; nothing but tensors and plain data is loaded. Raises ConfigError."""
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for files that are not its own
        reason = str(error).splitlines()[0] if str(error) else repr(error)
        raise ConfigError(f"{path} cannot be read as weights: {reason}") from error
    if not isinstance(weights, dict) or not {"model", "model_target"} <= weights.keys():
        raise ConfigError(f"{path} is not a checkpoint with 'model' and 'model_target'")
    return weights


def _load_weights(path: Path, name: str, state: Any, network: WorldModel) -> list[str]:
    """Load one network; returns the observation critics' parameters that the file lacks."""
    ours = network.state_dict()
    missing = [key for key in ours if key not in state]
    critics = [key for key in missing if key.startswith(("_Q1_s.", "_Q2_s."))]
    problems = [f"{key} is missing" for key in missing if key not in critics]
    problems += [f"{key} is unknown" for key in state if key not in ours]
    problems += [
        f"{key} has shape {tuple(state[key].shape)}, this run has {tuple(tensor.shape)}"
        for key, tensor in ours.items()
        if key in state and state[key].shape != tensor.shape
    ]
    if problems:
        raise ConfigError(f"{path}, {name}: {'; '.join(problems[:3])}")
    bad = [key for key, tensor in state.items() if not torch.isfinite(tensor).all()]
    if bad:
        raise ConfigError(f"{path}, {name}: {bad[0]} is not finite")
    network.load_state_dict({**ours, **state})
    return critics
