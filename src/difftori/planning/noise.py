"""Random numbers for batches in which every row has a generator of its own."""

from collections.abc import Sequence

import torch
from torch import Tensor


def normal(shape: Sequence[int], generators: Sequence[torch.Generator]) -> Tensor:
    """Standard normal ``[B, *shape]``; row i depends on ``generators[i]`` alone."""
    return torch.stack([torch.randn(*shape, generator=g, device=g.device) for g in generators])


def uniform_actions(action_dim: int, generators: Sequence[torch.Generator]) -> Tensor:
    """Uniform in the box [-1, 1], ``[B, A]``."""
    rows = [torch.rand(action_dim, generator=g, device=g.device) for g in generators]
    return 2 * torch.stack(rows) - 1


def choice(weights: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """One index for each row of ``weights`` ``[B, N]``, with probability in proportion."""
    rows = zip(weights, generators, strict=True)
    return torch.cat([torch.multinomial(row, 1, generator=g) for row, g in rows])
