"""The runs of a study: where each lies, what starts it, and whether it is finished."""

import json
import os
import socket
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig

from difftori.checkpoints.files import write_bytes
from difftori.checkpoints.lock import process_ticks
from difftori.config import Config, ConfigError, from_hydra
from difftori.monitoring.status import QUEUED_FILE, clear_queued, read_status

WHERE_AND_HOW = {"log_dir", "threads", "resume", "overwrite", "save_every_minutes"}
"""keys whose change leaves a finished run finished"""


@dataclass(frozen=True)
class Job:
    """One run of a study."""

    number: int
    overrides: tuple[str, ...]
    """of its command line"""
    config: Config

    @property
    def folder(self) -> Path:
        return self.config.run.folder

    @property
    def label(self) -> str:
        return str(self.folder.relative_to(self.config.run.log_dir))


def read_jobs(
    compose: Callable[[list[str]], DictConfig],
    job_overrides: Sequence[Sequence[str]],
    *,
    first_number: int,
    threads: int | None,
) -> list[Job]:
    """What the study will run.

    Args:
        compose: the config of one run, from its overrides.
        threads: for each run that does not say how many; None: torch's own choice.

    Raises:
        ConfigError: a run cannot be run, or would share its folder with another; says which.
    """
    jobs: list[Job] = []
    for number, given in enumerate(job_overrides, first_number):
        overrides = list(given)
        try:
            config = from_hydra(compose(overrides), check_devices=False)
            if config.run.threads is None and threads is not None:
                overrides.append(f"threads={threads}")
                config = from_hydra(compose(overrides), check_devices=False)
        except ConfigError as error:
            raise ConfigError(f"{error} (run {number}: {' '.join(given)})") from error
        jobs.append(Job(number, tuple(overrides), config))
    _refuse_shared_folders(jobs)
    return jobs


def _refuse_shared_folders(jobs: Iterable[Job]) -> None:
    first: dict[Path, Job] = {}
    for job in jobs:
        other = first.setdefault(job.folder, job)
        if other is not job:
            differing = sorted(
                word.partition("=")[0] for word in set(job.overrides) - set(other.overrides)
            )
            key = differing[0] if differing else "KEY"
            raise ConfigError(
                f"runs {other.number} and {job.number} would share the folder {job.folder}; "
                f"let exp_name tell them apart, as in 'exp_name={key}-${{{key}}}'"
            )


def is_finished(job: Job) -> bool:
    """Whether the same command has been through, so that nothing is left to do."""
    run, folder = job.config.run, job.folder
    if not run.resume or read_status(folder).get("state") != "done":
        return False
    if run.save_model and not (folder / "models" / "model.pt").exists():
        return False
    try:
        before = yaml.safe_load((folder / "config.yaml").read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return False
    now = job.config.flat()
    return isinstance(before, dict) and all(
        before.get(key) == now.get(key) for key in (before.keys() | now.keys()) - WHERE_AND_HOW
    )


def mark_queued(job: Job, *, starting: bool = False, slurm_job: str | None = None) -> None:
    """Say in the run's folder who starts it: this process, or Slurm.

    Args:
        starting: it is being started now.
        slurm_job: the job's id.
    """
    note = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "ticks": process_ticks(os.getpid()),
        "starting": starting,
        "slurm_job": slurm_job,
        **identity(job.config),
    }
    # the run itself will tell what is wrong with its folder
    with suppress(OSError):
        job.folder.mkdir(parents=True, exist_ok=True)
        write_bytes(job.folder / QUEUED_FILE, json.dumps(note).encode())


def unmark_queued(job: Job) -> None:
    """Take back ``mark_queued``; a folder that holds nothing else goes too."""
    clear_queued(job.folder)
    with suppress(OSError):
        job.folder.rmdir()


def identity(config: Config) -> dict[str, Any]:
    """What a table of runs shows of a run that has no ``config.yaml`` yet."""
    run = config.run
    return {
        "task": run.task,
        "modality": run.modality,
        "mode": run.mode,
        "exp_name": run.exp_name,
        "seed": run.seed,
        "train_steps": run.train_steps,
    }
