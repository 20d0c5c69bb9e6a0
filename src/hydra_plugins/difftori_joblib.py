"""``hydra/launcher=joblib``: a study on this machine."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra_plugins.hydra_joblib_launcher.joblib_launcher import JoblibLauncher

if TYPE_CHECKING:
    from difftori.study.jobs import Job

TRAIN = Path(__file__).resolve().parents[1] / "train.py"


@dataclass
class StudyLauncherConfig:
    """The keys of ``hydra.launcher``."""

    _target_: str = "hydra_plugins.difftori_joblib.StudyLauncher"
    n_jobs: int = -1
    """runs at a time; -1: one for each core"""


class StudyLauncherName(SearchPathPlugin):
    """Gives ``joblib`` to this launcher.

    A file in ``cfgs`` cannot: Hydra would hold it against the original's schema, with a warning.
    This is called when all plugins, the original included, have registered their own.
    """

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        store = ConfigStore.instance()
        store.store(group="hydra/launcher", name="joblib", node=StudyLauncherConfig)


class StudyLauncher(JoblibLauncher):
    """joblib's launcher with a process for each run.

    A job that ends its process, by an exit or by being killed, would end all jobs of the original;
    and joblib kills its workers at Ctrl-C, before a run could save.
    """

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        # imported here, because Hydra imports this file at every start
        from joblib import cpu_count

        from difftori.monitoring.console import ConsoleReporter
        from difftori.study.jobs import read_jobs
        from difftori.study.launch import (
            compose_with,
            note_exit_code,
            refused_in_one_line,
            returned,
        )
        from difftori.study.local import LocalStudy
        from difftori.study.outcome import exit_code, summary

        n_jobs = int(self.joblib["n_jobs"])
        cores = cpu_count()
        # all runs of the command count, also finished ones, so that a study that goes on gives
        # its runs the threads that they began with
        n_jobs = min(len(job_overrides), n_jobs if n_jobs > 0 else cores)
        with refused_in_one_line():
            jobs = read_jobs(
                compose_with(self),
                job_overrides,
                first_number=initial_job_idx,
                threads=max(1, cores // n_jobs),
            )
        with ConsoleReporter(progress_every_seconds=60) as console:
            console.info(
                f"{len(jobs)} runs, {n_jobs} at a time on {cores} cores; what each prints is in "
                "its folder's console.log"
            )
            study = LocalStudy(jobs, n_jobs=n_jobs, command=_command, console=console)
            outcomes = study.run()
            console.info(summary(outcomes, jobs[0].config.run.log_dir))
        note_exit_code(exit_code(outcomes, killed=study.killed))
        return [returned(outcome.exit_code, outcome.job.overrides) for outcome in outcomes]


def _command(job: "Job") -> list[str]:
    flags = [word for word in sys.argv[1:] if word.startswith("--config-")]
    return [sys.executable, str(TRAIN), *flags, *job.overrides]
