"""Whole runs in processes of their own; plain helpers are in ``processes``."""

from contextlib import suppress
from pathlib import Path

import processes
import pytest

from difftori.envs.rendering import prepare_rendering
from runs import run_folder

with suppress(RuntimeError):
    prepare_rendering()  # before anything imports dm_control, so at collection


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a debug run that nothing has disturbed. Not to be changed."""
    log_dir = tmp_path_factory.mktemp("finished")
    assert processes.start_training(log_dir).wait() == 0
    return run_folder(log_dir)
