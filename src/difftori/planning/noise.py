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


def exponential(count: int, generators: Sequence[torch.Generator]) -> Tensor:
    """Exponential ``[B, count]``, for ``choice``."""
    rows = [torch.empty(count, device=g.device).exponential_(generator=g) for g in generators]
    return torch.stack(rows)


def choice(weights: Tensor, draws: Tensor) -> Tensor:
    """One index for each row of ``weights`` ``[B, N]``, with probability in proportion.

    Of exponential ``draws`` ``[B, N]`` with those rates, the first to come is the choice. This is
    ``torch.multinomial`` to the bit, without its checks, which on a GPU would wait for it.
    """
    return (weights / draws).argmax(dim=1)
