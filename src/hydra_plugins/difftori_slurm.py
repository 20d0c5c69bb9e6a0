"""``hydra/launcher=slurm``: a study on a cluster."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn
from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher

if TYPE_CHECKING:
    from difftori.study.jobs import Job

SRC = Path(__file__).resolve().parents[1]


class SlurmStudyLauncher(SlurmLauncher):
    """submitit's launcher, for the missing runs only, with each run's lines in its own folder.

    The jobs look after themselves: one that is preempted or comes to its time limit saves, and
    submitit puts it back into the queue. This process only tells how they end.
    """

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        self.folders: list[Path] = []
        """of the runs, by the number of their job in the array"""

    def __call__(
        self,
        sweep_overrides: list[str],
        job_dir_key: str,
        job_num: int,
        job_id: str,
        singleton_state: dict[Any, Any],
    ) -> JobReturn:
        """One run, within its job."""
        from difftori.monitoring.status import CONSOLE_FILE
        from difftori.study.slurm import ended_by_slurm, printed_to

        with printed_to(self.folders[job_num] / CONSOLE_FILE), ended_by_slurm():
            return super().__call__(
                sweep_overrides, job_dir_key, job_num, job_id, singleton_state
            )  # fmt: skip

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        # imported here, because Hydra imports this file at every start
        from difftori.monitoring.console import ConsoleReporter
        from difftori.report.run_state import listed_slurm_jobs, slurm_job_of
        from difftori.study.jobs import is_finished, mark_queued, read_jobs
        from difftori.study.launch import (
            compose_with,
            note_exit_code,
            refused_in_one_line,
            returned,
        )
        from difftori.study.outcome import Outcome, exit_code, summary
        from difftori.study.slurm import follow

        with refused_in_one_line():
            jobs = read_jobs(
                compose_with(self),
                job_overrides,
                first_number=initial_job_idx,
                threads=self.params["cpus_per_task"],
            )
        missing = [job for job in jobs if not is_finished(job)]
        outcomes = [
            Outcome(job, "done", "nothing left to do") for job in jobs if job not in missing
        ]
        with ConsoleReporter(progress_every_seconds=60) as console:
            for count, outcome in enumerate(outcomes, 1):
                console.info(outcome.line(count, len(jobs)))
            queue = listed_slurm_jobs() or {}
            by_id = {at: job for job in missing if (at := slurm_job_of(job.folder)) in queue}
            for identifier, job in by_id.items():
                console.info(f"{job.label}: is in the queue already, as Slurm job {identifier}")
            missing = [job for job in missing if job not in by_id.values()]
            if missing:
                submitted = self._submit(missing)
                by_id |= submitted
                for identifier, job in submitted.items():
                    mark_queued(job, slurm_job=identifier)
                array = next(iter(submitted)).partition("_")[0]
                console.info(
                    f"submitted as Slurm job {array}, which goes on without this command: Ctrl-C "
                    f"ends only the waiting, `scancel {array}` the runs; what each prints is in "
                    "its folder's console.log"
                )
            if by_id:
                outcomes += follow(by_id, ended=len(outcomes), console=console)
            console.info(summary(outcomes, jobs[0].config.run.log_dir))
        note_exit_code(exit_code(outcomes))
        return [returned(outcome.exit_code, outcome.job.overrides) for outcome in outcomes]

    def _submit(self, jobs: Sequence["Job"]) -> dict[str, "Job"]:
        """Put the runs into the queue, as one array; by the ids of their jobs."""
        import submitit

        self.folders = [job.folder.resolve() for job in jobs]
        params = dict(self.params)
        # a job begins without what `python src/train.py` puts on the path
        path = f'export PYTHONPATH={shlex.quote(str(SRC))}"${{PYTHONPATH:+:$PYTHONPATH}}"'
        params["setup"] = [path, *(params["setup"] or [])]
        # Until submitit listens, a signal to requeue would end the job, and not requeue it
        python = f"""bash -c 'trap "" USR2; exec "$0" "$@"' {shlex.quote(sys.executable)}"""
        executor = submitit.AutoExecutor(
            folder=params.pop("submitit_folder"),
            cluster=self._EXECUTOR,
            slurm_max_num_timeout=params.pop("max_num_timeout"),
            slurm_python=python,
        )
        plain = set(BaseQueueConf.__dataclass_fields__)
        executor.update_parameters(
            **{name if name in plain else f"slurm_{name}": params[name] for name in params}
        )
        count = len(jobs)
        submitted = executor.map_array(
            self,
            [list(job.overrides) for job in jobs],
            ["hydra.sweep.dir"] * count,
            list(range(count)),
            [f"job_{number}" for number in range(count)],
            [Singleton.get_state()] * count,
        )
        return {str(at.job_id): job for at, job in zip(submitted, jobs, strict=True)}
