"""What this project's launchers share."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, open_dict

from difftori.cli import fail
from difftori.config import ConfigError

_exit_codes: list[int] = []


def compose_with(launcher: Any) -> Callable[[list[str]], DictConfig]:
    """The config of one run from its overrides, as Hydra composes it."""

    def compose(overrides: list[str]) -> DictConfig:
        cfg: DictConfig = launcher.hydra_context.config_loader.load_sweep_config(
            launcher.config, overrides
        )
        with open_dict(cfg):
            cfg.pop("hydra")  # of the study, with values that only its jobs have
        return cfg

    return compose


@contextmanager
def refused_in_one_line() -> Iterator[None]:
    """A study that cannot be run ends before anything begins."""
    try:
        yield
    except ConfigError as error:
        fail(str(error))


def returned(code: int, overrides: Sequence[str] = ()) -> JobReturn:
    """A run's exit code, as Hydra wants it; it is never an error that would end the others."""
    result = JobReturn(overrides=list(overrides), status=JobStatus.COMPLETED)
    result.return_value = code
    return result


def note_exit_code(code: int) -> None:
    """For ``exit_with_noted_code``: Hydra itself drops what a study returns."""
    _exit_codes.append(code)


def exit_with_noted_code() -> None:
    """End the process if a study was run here and anything of it is missing."""
    code = max(_exit_codes, key=_URGENCY.index, default=0)
    if code:
        sys.exit(code)


_URGENCY = (0, 75, 130, 1)
"""exit codes, the one that must be told last"""
