"""What this machine lacks for a run, and how long the run would take here.

Nothing but Python's own is imported at the top: a package that is missing or broken is a line.
"""

import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from difftori.process import FAILED_EXIT_CODE, fail

if TYPE_CHECKING:
    from difftori.config import Config

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ("requirements.txt", "requirements-theseus.txt")


class Report:
    """Prints a line for each finding."""

    def __init__(self) -> None:
        self.fixes = 0
        """lines that say what to fix"""

    def line(self, verdict: Literal["ok", "note", "fix"], name: str, text: str) -> None:
        """``note``: the run works without; ``fix``: it does not."""
        self.fixes += verdict == "fix"
        print(f"{verdict:<5} {name:<12} {text}", flush=True)

    def exit_code(self) -> int:
        if not self.fixes:
            return 0
        print(f"to fix before this command can run: {self.fixes}")
        return FAILED_EXIT_CODE


def examine(words: Sequence[str]) -> int:
    """Print the report on the command that ``words`` of ``train.py`` describe.

    Returns:
        1 if something has to be fixed, else 0; ends with 2, as ``train.py``, for unknown words.
    """
    report = Report()
    check_packages(report)
    try:
        import torch

        from difftori import cli
        from difftori.config import ConfigError, compose
    except Exception as error:  # a broken package may raise anything
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        report.line("fix", "imports", f"{said}: make setup")
        return report.exit_code()
    words = cli.rename_tasks(words)
    cli.refuse_unknown_words(words)
    for word in words:
        if word.startswith("-"):
            fail(f"{word}: give the words of one run")
    try:
        config = compose(*words)
    except ConfigError as error:
        fail(str(error))
    if config.run.threads is not None:
        torch.set_num_threads(config.run.threads)
    check_machine(config, report)
    can_render = check_rendering(config, report)
    check_folder(config, report)
    if can_render:
        check_run(config, report)
    return report.exit_code()


def check_packages(report: Report) -> None:
    """Python and the packages, against the versions that are pinned."""
    version = ".".join(map(str, sys.version_info[:3]))
    right = sys.version_info[:2] == (3, 11)
    report.line("ok" if right else "fix", "python", version + ("" if right else ": 3.11 is needed"))
    lines = [line for name in REQUIREMENTS for line in (ROOT / name).read_text().splitlines()]
    pins = [line.split("==") for line in lines if "==" in line]
    others = 0
    for package, pinned in pins:
        try:
            found = metadata.version(package).partition("+")[0]
        except metadata.PackageNotFoundError:
            found = "missing"
        if found != pinned:
            others += 1
            report.line("fix", "packages", f"{package} is {found}, {pinned} is pinned: make setup")
    if not others:
        report.line("ok", "packages", f"all {len(pins)} in the versions that are pinned")


def check_machine(config: "Config", report: Report) -> None:
    """GPU, cores and compiler."""
    import torch

    from difftori.compiling.compiler import Compiler
    from difftori.machine import usable_cores

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        report.line("ok", "CUDA", ", ".join(names))
    elif shutil.which("nvidia-smi") is not None:
        report.line("note", "CUDA", "there is a GPU's driver, but this torch cannot use it")
    else:
        report.line("ok", "CUDA", "no GPU: device=auto computes on the CPU")
    cores, load, threads = usable_cores(), os.getloadavg()[0], torch.get_num_threads()
    busy = max(threads, load) > cores
    text = f"threads={threads} on {cores:g} cores with a load of {load:.1f}"
    report.line("note" if busy else "ok", "threads", text + (": slow" if busy else ""))
    compiler = Compiler(config.run.compile)
    compiler(lambda x: x.sin() + 1, "a test")(torch.ones(8))
    if compiler.enabled != config.run.compile:
        text = "torch.compile fails, so that nothing is compiled: install g++"
        report.line("note", "compiler", text)
    else:
        works = "torch.compile works" if compiler.enabled else "not used: compile=false"
        report.line("ok", "compiler", works)


def check_rendering(config: "Config", report: Report) -> bool:
    """Whether a run has the renderer that it needs."""
    from difftori.envs.rendering import prepare_rendering
    from difftori.sections import GYMNASIUM

    needed = config.env.modality == "pixels" or config.evaluation.save_video
    if needed and config.env.suite == GYMNASIUM:
        report.line("ok", "rendering", "as the environment does it")
        return True
    try:
        report.line("ok", "rendering", prepare_rendering())
    except RuntimeError as error:
        use = "" if needed else " (only pixels and videos need it)"
        report.line("fix" if needed else "note", "rendering", f"{error}{use}")
        return not needed
    return True


def check_folder(config: "Config", report: Report) -> None:
    """What ``train.py`` would do with a run that is in the folder already."""
    from difftori.checkpoints.checkpoint import read_latest
    from difftori.checkpoints.folder import fate_of
    from difftori.checkpoints.settings import other_settings
    from difftori.checkpoints.tree_file import CheckpointError

    folder = config.run.folder
    place = nearest_there(folder)
    if not (place.is_dir() and os.access(place, os.R_OK | os.W_OK | os.X_OK)):
        text = f"{folder} cannot be used: {place} is no folder that can be read and written"
        report.line("fix", "run folder", text)
        return
    fate = fate_of(config.run)
    if fate.startswith("refuse"):
        report.line("fix", "run folder", f"{folder} holds a run: choose another exp_name")
        return
    if fate == "resume":
        try:
            tree = read_latest(folder)
        except CheckpointError as error:
            report.line("fix", "run folder", str(error))
            return
        changes = other_settings(tree["config"], config.flat()) if tree else ""
        if changes:
            text = f"{folder} holds a run with other settings: {changes}; choose another exp_name"
            report.line("fix", "run folder", text)
            return
    verdict: Literal["ok", "note"] = "note" if fate == "overwrite" else "ok"
    report.line(verdict, "run folder", f"{folder}: {fate}")


def nearest_there(path: Path) -> Path:
    """``path``, or the nearest of its parents that is there."""
    path = path.absolute()
    while not os.access(path, os.F_OK):
        path = path.parent
    return path


def check_run(config: "Config", report: Report) -> None:
    """Build the run in a temporary folder, for its memory and disk; then time its phases."""
    from rich.filesize import decimal

    from difftori.checkpoints.tree_file import CheckpointError
    from difftori.config import ConfigError
    from difftori.learning.finite import NotFiniteError
    from difftori.monitoring.console import format_seconds
    from difftori.training.collector import EpisodeFailedError
    from difftori.training.estimate import build_in, estimate, measure
    from difftori.training.resources import buffer_bytes, disk_bytes
    from difftori.training.start import prepare_process

    logging.getLogger("difftori").addHandler(logging.NullHandler())
    with tempfile.TemporaryDirectory() as folder:
        try:
            prepare_process(config)
            trainer = build_in(folder, config)
        except ConfigError as error:
            report.line("fix", "run", str(error))
            return
        trainer.close()
        spec, place = trainer.spec, nearest_there(config.run.folder)
        need = decimal(buffer_bytes(config, spec))
        report.line("ok", "memory", f"the replay buffer takes up to {need}")
        size = disk_bytes(config, spec, trainer.model)
        taken = sum(file.stat().st_size for file in config.run.folder.rglob("*") if file.is_file())
        free = shutil.disk_usage(place).free
        text = f"the run takes up to {decimal(size)}, {decimal(free)} free in {place}"
        report.line("ok" if size < free + taken else "fix", "disk", text)
        try:
            seconds = measure(config, folder)
        except (EpisodeFailedError, NotFiniteError, CheckpointError) as error:
            report.line("fix", "run", str(error))
            return
    parts = ", ".join(f"{name} {each:.2g} s" for name, each in seconds.items())
    report.line("ok", "speed", f"of a step: {parts}")
    whole = format_seconds(estimate(config, seconds, spec.episode_length))
    compiled = ", less with compile=true" if config.run.compile else ""
    text = f"{config.run.train_steps:,} env steps take about {whole} here{compiled}"
    report.line("ok", "time", text)
