"""A study in Slurm: what puts its runs into the queue, and what runs within each job."""

import logging
import os
import runpy
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import submitit

from difftori.monitoring.status import CONSOLE_FILE, read_status, slurm_job
from difftori.process import RESUME_EXIT_CODE
from difftori.report.run_state import listed_slurm_jobs, slurm_job_of
from difftori.study.jobs import TRAIN, Job, is_finished, mark_queued

WAIT_FOR_END_SECONDS = 600.0
CONTINUE = ("resume=true", "overwrite=false")

logger = logging.getLogger(__name__)


@dataclass
class SlurmRun:
    """One run, within its job: submitit calls it there, and again after a requeue."""

    overrides: tuple[str, ...]
    log: Path
    """where it prints to, in the run's folder"""

    def __call__(self) -> None:
        print_to(self.log)
        # a job that was queued again goes on with its own run, once that has begun
        job, begun = slurm_job(), read_status(self.log.parent).get("slurm_job")
        again = CONTINUE if job is not None and begun == job else ()
        sys.argv = [str(TRAIN), *self.overrides, *again]
        print("$ python", *sys.argv, flush=True)
        try:
            runpy.run_path(str(TRAIN), run_name="__main__")
        except SystemExit as error:
            if error.code == RESUME_EXIT_CODE:
                # Slurm sends SIGTERM before it preempts, requeues or cancels. A job that ends by
                # itself then counts as failed, and may not be queued again; one that is killed
                # does what Slurm meant.
                print("waiting for Slurm to end the job", flush=True)
                time.sleep(WAIT_FOR_END_SECONDS)
            if error.code:
                raise

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """What runs after a requeue: the same."""
        return submitit.helpers.DelayedSubmission(self)


def print_to(path: Path) -> None:
    """From now on, all that this process prints goes to the end of a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for descriptor in (1, 2):
        os.dup2(file, descriptor)


def submit(jobs: Sequence[Job], keys: Mapping[str, Any]) -> None:
    """Put what is missing, and not in the queue yet, into Slurm's queue as one array.

    The jobs look after themselves: one that is preempted or comes to its time limit saves, and
    submitit puts it back into the queue.

    Args:
        keys: of ``cfgs/hydra/launcher/slurm.yaml``.

    Raises:
        RuntimeError: Slurm does not answer, so that what waits already is not known.
    """
    queue = listed_slurm_jobs()
    if queue is None:
        raise RuntimeError("Slurm cannot be asked for its queue (squeue); nothing was submitted")
    missing = [job for job in jobs if not is_finished(job)]
    new = [job for job in missing if slurm_job_of(job.folder) not in queue]
    logger.info(
        f"{len(jobs)} runs: {len(jobs) - len(missing)} done, {len(missing) - len(new)} in the "
        f"queue already, {len(new)} to submit"
    )
    if not new:
        return
    executor = _executor(keys)
    with executor.batch():
        submitted = [
            executor.submit(SlurmRun(job.overrides, job.folder.resolve() / CONSOLE_FILE))
            for job in new
        ]
    for job, at in zip(new, submitted, strict=True):
        mark_queued(job, slurm_job=str(at.job_id))
    array = str(submitted[0].job_id).partition("_")[0]
    logger.info(
        f"submitted as Slurm job {array}; `scancel {array}` ends it, and "
        f"`python src/status.py {jobs[0].config.run.log_dir}` shows how far it is"
    )


def _executor(keys: Mapping[str, Any]) -> submitit.AutoExecutor:
    from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf

    keys = dict(keys)
    # a job begins without what `python src/train.py` puts on the path
    path = f'export PYTHONPATH={shlex.quote(str(TRAIN.parent))}"${{PYTHONPATH:+:$PYTHONPATH}}"'
    keys["setup"] = [path, *(keys["setup"] or [])]
    # until submitit listens, a signal to requeue would end the job, and not requeue it
    python = f"""bash -c 'trap "" USR2; exec "$0" "$@"' {shlex.quote(sys.executable)}"""
    executor = submitit.AutoExecutor(
        folder=keys.pop("submitit_folder"),
        cluster="slurm",
        slurm_max_num_timeout=keys.pop("max_num_timeout"),
        slurm_python=python,
    )
    shared = set(BaseQueueConf.__dataclass_fields__)
    executor.update_parameters(
        **{name if name in shared else f"slurm_{name}": value for name, value in keys.items()}
    )
    return executor
