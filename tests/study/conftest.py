from collections.abc import Callable
from pathlib import Path

import pytest

from builders import tiny_config
from difftori.study.jobs import Job


@pytest.fixture
def make_job(tmp_path: Path) -> Callable[..., Job]:
    """Jobs of runs below ``tmp_path``, from their seed."""

    def make(seed: int, **keys: object) -> Job:
        config = tiny_config(log_dir=str(tmp_path), seed=seed, threads=1, **keys)
        return Job((f"seed={seed}",), config)

    return make
