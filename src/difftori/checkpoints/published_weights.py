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
        lacks_critics = _load_weights(path, name, weights[name], network)
    if lacks_critics:
        logger.info(f"{path} has no observation critics (TD-MPC's files have none): they are new")
    logger.info(f"weights from {path}")


def read_weights(path: Path) -> dict[str, Any]:
    """The file's content; nothing but tensors and plain data is loaded. Raises ConfigError."""
    if not path.exists():
        raise ConfigError(f"{path} does not exist")
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


def _load_weights(path: Path, name: str, state: dict[str, Tensor], network: WorldModel) -> bool:
    """Load one network; whether the file lacks observation critics."""
    try:
        missing, unknown = network.load_state_dict(state, strict=False)
    except RuntimeError as error:  # names the shapes, a line for each
        raise ConfigError(f"{path}, {name}: {str(error).splitlines()[-1].strip()}") from error
    critics = [key for key in missing if key.startswith(("_Q1_s.", "_Q2_s."))]
    problems = [f"{key} is missing" for key in missing if key not in critics]
    problems += [f"{key} is unknown" for key in unknown]
    problems += [f"{k} is not finite" for k, v in state.items() if not torch.isfinite(v).all()]
    if problems:
        raise ConfigError(f"{path}, {name}: {problems[0]}")
    return bool(critics)
