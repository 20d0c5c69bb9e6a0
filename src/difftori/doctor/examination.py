"""All checks in order, for the command that the overrides describe."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from difftori.doctor import machine, needs, packages
from difftori.doctor.report import Finding, Report, sentence

if TYPE_CHECKING:
    from difftori.config import Config
    from difftori.types import EnvSpec

FAILED_EXIT_CODE = 1


def examine(overrides: Sequence[str]) -> int:
    """Print the report; 0 if nothing that is needed is missing, else 1.

    Exits with 2 and one line, as ``train.py`` does, for a word that is not understood.
    """
    overrides = _known_words(overrides)
    report = Report()
    report.check("python", packages.python)
    report.check("packages", packages.versions)
    report.check("imports", packages.imports)
    config = _read(overrides, report)
    wanted = config is not None and config.run.compile
    report.check("compiler", lambda: machine.compiler(wanted=wanted))
    report.check("CUDA", machine.cuda)
    if config is None:
        report.check("rendering", lambda: needs.rendering(needed=False))
        return _conclude(report)
    report.check("threads", lambda: machine.threads(config.run.threads))
    report.check("bf16", lambda: _bf16(config))
    pictures = config.env.modality == "pixels" or config.evaluation.save_video
    missing = report.fixes
    report.check("rendering", lambda: needs.rendering(needed=pictures))
    blind = report.fixes > missing
    if blind:
        os.environ["MUJOCO_GL"] = "disabled"  # the simulator loads without a renderer only so
    report.check("memory", lambda: _memory(config))
    report.check("disk", lambda: _disk(config))
    report.check("run folder", lambda: needs.run_folder(config))
    report.check("W&B", lambda: needs.wandb_login(config.wandb))
    if blind:
        report.add("speed", Finding("note", "not measured: there is nothing to render with"))
    else:
        report.check("speed", lambda: _speed(config, report.progress))
    return _conclude(report)


def _conclude(report: Report) -> int:
    if report.fixes == 0:
        return 0
    things = "thing" if report.fixes == 1 else "things"
    print(f"{report.fixes} {things} to fix before this command can run")
    return FAILED_EXIT_CODE


def _known_words(overrides: Sequence[str]) -> Sequence[str]:
    """As Hydra reads them; exit with one line and 2 for a typo.

    As they are, if a package is missing that knows all words.
    """
    try:
        from difftori import cli
    except Exception:  # a broken package may raise anything; the report will name it
        return overrides
    overrides = cli.rename_tasks(overrides)
    cli.refuse_unknown_words(overrides)
    return overrides


def _read(overrides: Sequence[str], report: Report) -> "Config | None":
    """None, and a line in the report, if the settings cannot be read or cannot be run here."""
    try:
        from hydra.errors import HydraException

        from difftori.config import ConfigError, compose
    except Exception as error:  # a broken package may raise anything
        text = f"cannot be read: {sentence(error)}"
        report.add("command", Finding("fix", text, packages.SETUP))
        return None
    try:
        config = compose(*overrides)
    except (ConfigError, HydraException) as error:
        report.add("command", Finding("fix", sentence(error).partition(": ")[2]))
        return None
    except Exception as error:  # a broken package may raise anything
        text = f"cannot be read: {sentence(error)}"
        report.add("command", Finding("fix", text, packages.SETUP))
        return None
    run = config.run
    text = f"{run.task} from {run.modality}, mode {run.mode}, preset {run.preset}"
    report.add("command", Finding("ok", text))
    return config


def _bf16(config: "Config") -> Finding:
    from difftori.training.build import resolve_device

    learner = config.learner
    rows, device = learner.batch_size, resolve_device(config.run.device)
    return machine.bf16(learner.precision, rows, config.model.mlp_dim, device)


def _sizes(config: "Config") -> tuple[int, int]:
    """Bytes of memory and of disk that the run will take."""
    from difftori.model.world_model import WorldModel
    from difftori.replay import memory_bytes
    from difftori.training.resources import buffer_bytes, checkpoint_bytes, stored_steps

    spec = _spec(config)
    checkpoints = 3 * checkpoint_bytes(WorldModel(spec, config.model))
    return buffer_bytes(config, spec), memory_bytes(spec, stored_steps(config, spec)) + checkpoints


def _spec(config: "Config") -> "EnvSpec":
    """The environment's, also where nothing can render."""
    from difftori.training.build import env_factory

    task = config.env
    from_state = config.model_copy(update={"env": task.model_copy(update={"modality": "state"})})
    env, spec = env_factory(from_state)()
    env.close()
    if task.modality == "state":
        return spec
    shape = (3 * task.frame_stack, task.img_size, task.img_size)
    return replace(spec, modality="pixels", obs_shape=shape, frame_stack=task.frame_stack)


def _memory(config: "Config") -> Finding:
    return needs.memory(_sizes(config)[0], on_cpu=config.run.buffer_device == "cpu")


def _disk(config: "Config") -> Finding:
    return needs.disk(config.run.folder, _sizes(config)[1])


def _speed(config: "Config", say: Callable[[str], None]) -> list[Finding]:
    from difftori.doctor import speed
    from difftori.monitoring.progress import format_seconds

    measured, episode_length = speed.measure(config, say)
    counts = speed.work(config, episode_length)
    took = speed.estimate(measured, counts, config, episode_length)

    def each(seconds: float) -> str:
        return f"{seconds:.2g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"

    faster = ", less with compile=true, which is not tried" if config.run.compile else ""
    parts = f"acting {format_seconds(took.acting)}, learning {format_seconds(took.learning)}, "
    return [
        Finding(
            "ok",
            f"environment {each(measured.env)}, plan {each(measured.plan)}, "
            f"update {each(measured.update)}, of an agent step each",
        ),
        Finding(
            "ok",
            f"{config.run.train_steps:,} env steps take about {format_seconds(took.total)} here: "
            f"{parts}evaluating {format_seconds(took.evaluating)}{faster}",
        ),
    ]
