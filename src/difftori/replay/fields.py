"""What one transition consists of beside its observations.

The one list that the checks of an episode, the ring's rows and the batches read. A new field has
its line here, its attributes in ``Episode`` and ``Batch``, its value in ``collector.py``, and its
loss.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from difftori.types import EnvSpec, Episode


@dataclass(frozen=True)
class TransitionField:
    name: str
    """of the attribute of ``Episode`` ``[L, *shape]`` and of ``Batch`` ``[H, B, width]``"""
    shape: tuple[int, ...]
    """of one transition's value"""
    dtype: type[np.generic]
    """in an episode; a value must survive float32, which ring and batches hold"""

    @property
    def width(self) -> int:
        return int(np.prod(self.shape))


def transition_fields(spec: EnvSpec) -> tuple[TransitionField, ...]:
    return (
        TransitionField("action", (spec.action_dim,), np.float32),
        TransitionField("reward", (), np.float32),
        TransitionField("terminated", (), np.bool_),
    )


def row_width(spec: EnvSpec) -> int:
    """Numbers of one transition."""
    return sum(field.width for field in transition_fields(spec))


def to_rows(episode: Episode, spec: EnvSpec) -> Float[Tensor, "L W"]:
    """All fields of each transition side by side."""
    columns = [
        getattr(episode, field.name).reshape(len(episode), field.width)
        for field in transition_fields(spec)
    ]
    return torch.from_numpy(np.concatenate(columns, axis=1, dtype=np.float32))


def from_rows(rows: Float[Tensor, "*N W"], spec: EnvSpec) -> dict[str, Float[Tensor, "*N _"]]:
    """Each field by its name, as a view."""
    fields = transition_fields(spec)
    parts = rows.split([field.width for field in fields], dim=-1)
    return {field.name: part for field, part in zip(fields, parts, strict=True)}


def episode_arrays(parts: Mapping[str, Tensor], spec: EnvSpec) -> dict[str, Any]:
    """What ``from_rows`` gave for a whole episode, as ``Episode`` has it."""
    return {
        field.name: parts[field.name].cpu().numpy().reshape(-1, *field.shape).astype(field.dtype)
        for field in transition_fields(spec)
    }
