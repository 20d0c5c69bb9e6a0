"""``hydra/launcher=local`` and ``hydra/launcher=slurm``: Hydra looks for launchers in this package.

Hydra imports this file at every start, so the rest is imported when a study begins.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

if TYPE_CHECKING:
    from difftori.study.jobs import Job


class LocalLauncher(Launcher):
    """A study on this machine; its keys are in ``cfgs/hydra/launcher/local.yaml``."""

    def __init__(self, **keys: Any) -> None:
        self.keys: Any = OmegaConf.to_container(OmegaConf.create(keys), resolve=True)

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        from difftori.process import fail

        self.config_loader, self.config = hydra_context.config_loader, config
        folder = Path(config.hydra.sweep.dir)
        try:  # Hydra does the same next, and an error of the disk would be a traceback
            folder.mkdir(parents=True, exist_ok=True)
            OmegaConf.save(config, folder / "multirun.yaml")
        except OSError as error:
            fail(f"the study's folder {folder} cannot be used: {error}")

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        from difftori.config import ConfigError
        from difftori.monitoring.console import Console
        from difftori.process import fail
        from difftori.study.jobs import read_jobs

        if not job_overrides:
            fail("the study has no runs: one of its ranges is empty")
        try:
            jobs = read_jobs(self._compose, job_overrides, self._threads(len(job_overrides)))
        except ConfigError as error:
            fail(str(error))
        with Console() as console:
            code = self._run(jobs, console)
        if code:  # Hydra drops what a launcher returns
            sys.exit(code)
        return []

    def _compose(self, overrides: Sequence[str]) -> DictConfig:
        """The config of one run."""
        cfg = self.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(cfg):
            cfg.pop("hydra")  # of the study, with values that only its jobs have
        return cfg

    def _threads(self, run_count: int) -> int:
        """Of each run, out of all runs of the command.

        Finished runs count: a study that goes on gives its runs the threads they began with.
        """
        from difftori.machine import usable_cores
        from difftori.study.local import at_a_time

        return max(1, int(usable_cores()) // at_a_time(self.keys["n_jobs"], run_count))

    def _run(self, jobs: Sequence["Job"], console: Any) -> int:
        from difftori.study.local import at_a_time, run_here

        return run_here(jobs, at_a_time(self.keys["n_jobs"], len(jobs)), console)


class SlurmLauncher(LocalLauncher):
    """A study on a cluster; its keys are in ``cfgs/hydra/launcher/slurm.yaml``."""

    def _threads(self, run_count: int) -> int:
        from difftori.config import ConfigError

        cores = self.keys["cpus_per_task"]
        if type(cores) is not int or cores < 1:
            raise ConfigError(f"hydra.launcher.cpus_per_task={cores}: expected 1 or more")
        return cores

    def _run(self, jobs: Sequence["Job"], console: Any) -> int:
        from difftori.process import fail
        from difftori.study.slurm import submit

        try:
            submit(jobs, self.keys)
        except RuntimeError as error:  # submitit's, where there is no Slurm
            fail(str(error))
        return 0
