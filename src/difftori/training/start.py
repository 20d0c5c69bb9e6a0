"""One training run from its config: claim the folder, build the parts, restore, train, end."""

import contextlib
import io
import logging
from pathlib import Path

import torch
import yaml
from omegaconf import DictConfig

from difftori.checkpoints.checkpoint import Checkpointer
from difftori.checkpoints.files import write_bytes
from difftori.checkpoints.folder import empty, fate_of, refuse_to_touch
from difftori.checkpoints.lock import RunLockedError, run_lock
from difftori.checkpoints.published_weights import load_published
from difftori.checkpoints.tree_file import CheckpointError
from difftori.compiling.compiler import Compiler
from difftori.compiling.cuda_graphs import CudaGraphs
from difftori.compiling.float32_matmul import set_tf32
from difftori.config import Config, ConfigError, from_hydra
from difftori.devices import make_current, resolve_device
from difftori.envs import ControlEnv, make_env
from difftori.envs.rendering import prepare_suite_rendering
from difftori.learning.finite import NotFiniteError
from difftori.learning.learner import Learner
from difftori.learning.plan_gradient_ways import plan_gradient_way
from difftori.model.world_model import WorldModel
from difftori.monitoring.console import Console
from difftori.monitoring.metrics import Metrics
from difftori.monitoring.provenance import record_session
from difftori.monitoring.status import State, clear_queued, describe, write_status
from difftori.monitoring.trackers import start_trackers
from difftori.planning.actor import Actor
from difftori.process import FAILED_EXIT_CODE, RESUME_EXIT_CODE
from difftori.replay.batches import Batches
from difftori.replay.buffer import ReplayBuffer
from difftori.training.allocator import keep_freed_memory
from difftori.training.collector import Collector, EpisodeFailedError
from difftori.training.evaluation import refuse_unless_filmed
from difftori.training.resources import announce
from difftori.training.scheduled_evaluation import Evaluator
from difftori.training.seeding import RandomStreams
from difftori.training.signals import StopRequested, StopSignals
from difftori.training.state import Averages
from difftori.training.trainer import Trainer
from difftori.types import EnvSpec

logger = logging.getLogger(__name__)


def train(cfg: DictConfig) -> int:
    """Run or resume what the config describes; returns the process's exit code.

    0 when the run is complete, 75 when it was asked to stop and can be resumed, 1 when it
    cannot go on.

    Raises:
        ConfigError: nothing was started, and no file of a run that is there has changed.
    """
    config = from_hydra(cfg)
    prepare_process(config)
    folder = config.run.folder
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(run_lock(folder))
            refuse_to_touch(config.run)
        except RunLockedError as error:
            raise ConfigError(str(error)) from error
        except OSError as error:
            raise ConfigError(f"the run folder {folder} cannot be used: {error}") from error
        with StopSignals() as signals, Console() as console:
            code = _run(config, console, signals)
    signals.call_previous_handlers()
    return code


def prepare_process(config: Config) -> None:
    """What holds for the whole process: threads, memory, a renderer (or ConfigError)."""
    if config.run.threads is not None:
        torch.set_num_threads(config.run.threads)
    set_tf32(config.run.tf32)
    keep_freed_memory()
    if config.env.modality == "pixels" or config.evaluation.save_video:
        prepare_suite_rendering(config.env.suite)


def _run(config: Config, console: Console, signals: StopSignals) -> int:
    """Build, restore, train; whatever happens, the folder's status says how it ended."""
    folder = config.run.folder
    metrics = Metrics(folder)
    code, reason, trainer = FAILED_EXIT_CODE, "", None
    state: State = "failed"
    try:
        trainer = build_trainer(config, metrics, console, signals)
        settings = yaml.safe_dump(config.flat(), sort_keys=False)
        _write_or_warn(folder / "config.yaml", settings.encode())
        env_step = trainer.counters.env_step
        if not trainer.is_complete:
            record_session(folder, device=trainer.model.device, env_step=env_step)
            write_status(folder, "running", env_step=env_step)
        clear_queued(folder)
        metrics.attach(start_trackers(config, metrics.next_env_step))
        trainer.run()
        reason = "the disk did not take models/model.pt"
        if not config.run.save_model or _save_model(trainer, config, metrics):
            at = trainer.counters.env_step
            logger.info(f"done: {at:,} env steps, everything in {folder}")
            code, state, reason = 0, "done", ""
    except StopRequested as request:
        where = "from here" if request.saved else "from its last checkpoint"
        saved = "and saved" if request.saved else "but could not save"
        same = "the same command" + ("" if config.run.resume else " with resume=true")
        logger.info(f"stopped by {request} {saved}; {same} goes on {where}")
        code, state, reason = RESUME_EXIT_CODE, "stopped", f"by {request}, {saved}"
    except (NotFiniteError, EpisodeFailedError, CheckpointError) as error:
        reason = told = str(error)
        if not isinstance(error, CheckpointError) and any(folder.glob("checkpoints/step_*")):
            told += f"; what was saved before is intact in {folder / 'checkpoints'}"
        logger.error(told)
    except BaseException as error:
        state = "stopped" if isinstance(error, KeyboardInterrupt) else "failed"
        # a refused config changes nothing, and so not what the folder says of its run
        reason = "" if isinstance(error, ConfigError) else describe(error)
        raise
    finally:
        if reason or state == "done":
            step = None if trainer is None else trainer.counters.env_step
            write_status(folder, state, reason=reason, env_step=step)
        if trainer is not None:
            trainer.close()
        metrics.close(code)
    return code


def build_trainer(
    config: Config, metrics: Metrics, console: Console, signals: StopSignals
) -> Trainer:
    """Everything that a run is made of, as its latest checkpoint left it.

    Raises:
        ConfigError: a setting that the environment or the checkpoint does not allow.
        CheckpointError: there are checkpoints, and none can be used.
    """
    run, device = config.run, resolve_device(config.run.device)
    make_current(device)
    env, spec = _first_env(config)

    def new_env() -> ControlEnv:
        return make_env(config.env)[0]

    streams = RandomStreams(run.seed, device)
    model = WorldModel(spec, config.model).to(device)
    checkpointer = Checkpointer(
        run.folder, spec, config.flat(), every_minutes=run.save_every_minutes
    )
    announce(config, spec, device, model)
    compiler = Compiler(run.compile, graphs=CudaGraphs(run.cuda_graphs))
    actor = Actor(model, config, compiler)
    learner = Learner(
        model,
        config.learner,
        generator=streams.learning,
        max_nonfinite=run.max_nonfinite,
        compiler=compiler,
    )
    buffer = ReplayBuffer(
        spec,
        capacity=config.replay.max_buffer_size,
        horizon=config.replay.horizon,
        alpha=config.replay.per_alpha,
        beta=config.replay.per_beta,
        storage_device=resolve_device(run.buffer_device),
        compute_device=device,
        generator=streams.replay,
    )
    plan_gradient = plan_gradient_way(
        config.plan_gradient,
        actor,
        learner,
        buffer,
        generator=streams.acting,
        max_nonfinite=run.max_nonfinite,
    )
    averages, ahead = Averages(), run.prefetch and device.type == "cuda"
    trainer = Trainer(
        config=config,
        spec=spec,
        model=model,
        actor=actor,
        learner=learner,
        plan_gradient=plan_gradient,
        collector=Collector(
            actor,
            model,
            plan_gradient,
            env=env,
            make_env=new_env,
            averages=averages,
            generator=streams.acting,
            run=run,
        ),
        evaluator=Evaluator(
            actor,
            spec,
            config.evaluation,
            make_env=new_env,
            device=device,
            run=run,
            metrics=metrics,
            console=console,
        ),
        buffer=buffer,
        batches=Batches(buffer, config.learner.batch_size, device, ahead=ahead),
        averages=averages,
        streams=streams,
        metrics=metrics,
        checkpointer=checkpointer,
        console=console,
        signals=signals,
    )
    _restore(trainer)
    return trainer


def _first_env(config: Config) -> tuple[ControlEnv, EnvSpec]:
    """The training environment. Raises ConfigError for what it cannot do."""
    try:
        env, spec = make_env(config.env)
        for remark in env.examine():
            logger.warning(remark)
    except (ValueError, RuntimeError, ImportError) as error:
        raise ConfigError(str(error)) from error
    if spec.episode_length <= config.learner.horizon and not spec.can_terminate:
        raise ConfigError(
            f"horizon={config.learner.horizon} needs episodes longer than that; those of "
            f"{spec.task} have {spec.episode_length} agent steps"
        )
    if spec.modality == "pixels" or config.evaluation.save_video:
        refuse_unless_filmed(env)
    return env, spec


def _restore(trainer: Trainer) -> None:
    """From the run's own latest checkpoint, else from ``start_from``, else from nothing.

    A run that is to be overwritten is deleted.
    """
    run = trainer.config.run
    overwrites = fate_of(run) == "overwrite"
    tree = None if overwrites else trainer.checkpointer.latest()
    if tree is None:
        if run.start_from is not None:
            load_published(run.start_from, trainer.model, trainer.learner)
        if overwrites:  # not before everything has been built
            empty(run.folder)
        trainer.metrics.truncate(0)
        return
    trainer.checkpointer.load_buffer(tree, trainer.buffer)
    trainer.load_state_dict(tree)
    counters = trainer.counters
    if trainer.is_complete:
        logger.info(f"nothing left to do: the run is at {counters.env_step:,} env steps")
        return
    ignored = f"; start_from={run.start_from} is not read again" if run.start_from else ""
    logger.info(
        f"resumed at episode {counters.episode}, agent step {counters.agent_step:,}, "
        f"update {counters.update:,}{ignored}"
    )


def _save_model(trainer: Trainer, config: Config, metrics: Metrics) -> bool:
    """The weights in the published format; False if the disk did not take them."""
    path = config.run.folder / "models" / "model.pt"
    buffer = io.BytesIO()
    torch.save(trainer.weights(), buffer)
    if not _write_or_warn(path, buffer.getvalue()):
        return False
    if config.wandb.wandb_artifact:
        metrics.artifact(path)
    return True


def _write_or_warn(path: Path, content: bytes) -> bool:
    """False if the disk did not take it; what is there already is not written again."""
    try:
        path.parent.mkdir(exist_ok=True)
        if not (path.exists() and path.read_bytes() == content):
            write_bytes(path, content)
        return True
    except OSError as error:
        logger.warning(f"{path} ({len(content):,} bytes) was not written: {error.strerror}")
        return False
