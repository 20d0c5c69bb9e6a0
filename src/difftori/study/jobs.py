"""The runs of a study: where each lies, what starts it, and whether it is finished."""

import json
import os
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from difftori.checkpoints.files import write_bytes
from difftori.checkpoints.folder import read_config
from difftori.checkpoints.settings import other_settings
from difftori.config import Config, ConfigError, from_hydra
from difftori.monitoring.status import QUEUED_FILE, clear_queued, read_status

TRAIN = Path(__file__).resolve().parents[2] / "train.py"


@dataclass(frozen=True)
class Job:
    """One run of a study."""

    overrides: tuple[str, ...]
    """of its command line"""
    config: Config

    @property
    def folder(self) -> Path:
        return self.config.run.folder


def read_jobs(
    compose: Callable[[Sequence[str]], DictConfig],
    job_overrides: Sequence[Sequence[str]],
    threads: int,
) -> list[Job]:
    """What the study will run.

    Args:
        compose: the config of one run, from its overrides.
        threads: of a run at most, unless it was asked for more.

    Raises:
        ConfigError: a run cannot be run, or would share its folder with another; says which.
    """
    jobs: dict[Path, Job] = {}
    for given in job_overrides:
        overrides = tuple(given)
        try:
            config = from_hydra(compose(overrides), check_devices=False)
            asked = any(word.lstrip("+").partition("=")[0] == "threads" for word in given)
            if not asked and (config.run.threads is None or config.run.threads > threads):
                overrides += (f"threads={threads}",)
                config = from_hydra(compose(overrides), check_devices=False)
        except ConfigError as error:
            raise ConfigError(f"{error} (in the run {' '.join(given)})") from error
        job = Job(overrides, config)
        other = jobs.setdefault(job.folder, job)
        if other is not job:
            differing = sorted(set(overrides) - set(other.overrides))
            if not differing:
                raise ConfigError(f"the same run is asked for twice: {' '.join(given)}")
            key = differing[0].partition("=")[0]
            raise ConfigError(
                f"two runs would share the folder {job.folder}; let exp_name tell them apart, as "
                f"in 'exp_name={key}-${{{key}}}'"
            )
    return list(jobs.values())


def is_finished(job: Job) -> bool:
    """Whether the same command has been through, so that nothing is left to do."""
    run, folder = job.config.run, job.folder
    status = read_status(folder)
    if not run.resume or status.get("state") != "done":
        return False
    if run.save_model and not (folder / "models" / "model.pt").exists():
        return False
    try:
        before, now = read_config(folder), job.config.flat()
    except ConfigError:
        return False
    # not config.yaml's train_steps: a process that was to go on may have written them, and died
    return not other_settings(before, now) and (status.get("env_step") or 0) >= now["train_steps"]


def mark_queued(job: Job, slurm_job: str | None = None) -> None:
    """Say in the run's folder who will start it: this process, or the Slurm job of that id."""
    note = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "slurm_job": slurm_job,
        "train_steps": job.config.run.train_steps,
    }
    with suppress(OSError):  # the run itself will tell what is wrong with its folder
        job.folder.mkdir(parents=True, exist_ok=True)
        write_bytes(job.folder / QUEUED_FILE, json.dumps(note).encode())


def unmark_queued(job: Job) -> None:
    """Take back ``mark_queued``; a folder that holds nothing else goes too."""
    clear_queued(job.folder)
    with suppress(OSError):
        job.folder.rmdir()
