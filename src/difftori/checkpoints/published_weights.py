"""Weights in the published format: ``{'model': state_dict, 'model_target': state_dict}``."""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from difftori.config import ConfigError
from difftori.learning.learner import Learner
from difftori.model.world_model import WorldModel

logger = logging.getLogger(__name__)


def load_published(path: Path, model: WorldModel, learner: Learner) -> None:
    """Begin from a ``{'model', 'model_target'}`` file: ours, DiffTORI's or TD-MPC's.

    TD-MPC's has no observation critics; they stay as initialised.

    Raises:
        ConfigError: the file cannot be read, or is of another architecture.
    """
    weights = read_weights(path)
    for name, network in (("model", model), ("model_target", learner.target)):
        missing = _load_weights(path, name, weights[name], network)
    if missing:
        logger.info(f"{path} has no observation critics (TD-MPC's files have none): they are new")
    logger.info(f"weights from {path}")


def read_weights(path: Path) -> dict[str, Any]:
    """The file's content; nothing but tensors and plain data is loaded. Raises ConfigError."""
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for files that are not its own
        raise ConfigError(f"{path} is not a file of weights that torch.save wrote") from error
    names = ("model", "model_target")
    if not (isinstance(weights, dict) and all(_is_state(weights.get(name)) for name in names)):
        raise ConfigError(f"{path} does not hold weights under 'model' and 'model_target'")
    return weights


def _is_state(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(part, Tensor) for part in value.values())


def _load_weights(path: Path, name: str, state: Any, network: WorldModel) -> list[str]:
    """Load one network; returns the observation critics' parameters that the file lacks."""
    ours = network.state_dict()
    missing = [key for key in ours if key not in state]
    critics = [key for key in missing if key.startswith(("_Q1_s.", "_Q2_s."))]
    problems = [f"{key} is missing" for key in missing if key not in critics]
    problems += [f"{key} is unknown" for key in state if key not in ours]
    problems += [
        f"{key} has shape {tuple(state[key].shape)}, this run has {tuple(tensor.shape)}"
        for key, tensor in ours.items()
        if key in state and state[key].shape != tensor.shape
    ]
    if problems:
        raise ConfigError(f"{path}, {name}: {'; '.join(problems[:3])}")
    bad = [key for key, tensor in state.items() if not torch.isfinite(tensor).all()]
    if bad:
        raise ConfigError(f"{path}, {name}: {bad[0]} is not finite")
    network.load_state_dict({**ours, **state})
    return critics
