"""Fixtures for every folder of tests; plain helpers are in ``builders``."""

from collections.abc import Iterator

import pytest
import torch

from builders import tiny_config, tiny_model
from difftori.config import Config
from difftori.model.world_model import WorldModel


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small are slower on several threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def config() -> Config:
    return tiny_config("mode=back_plan")


@pytest.fixture
def model(config: Config) -> WorldModel:
    return tiny_model(config)
