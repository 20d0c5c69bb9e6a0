from collections.abc import Callable
from pathlib import Path

import pytest

from builders import tiny_config
from difftori.study.jobs import Job


@pytest.fixture
def make_job(tmp_path: Path) -> Callable[..., Job]:
    """Jobs of runs below ``tmp_path``, from their number, which is the seed too."""

    def make(number: int, **keys: object) -> Job:
        config = tiny_config(log_dir=str(tmp_path), seed=number, threads=1, **keys)
        return Job(number, (f"seed={number}",), config)

    return make
