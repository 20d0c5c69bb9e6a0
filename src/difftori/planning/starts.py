"""Where the trust-region optimizer begins: candidates of one batch, of which the best are kept."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from difftori.planning import noise
from difftori.solvers.solution import ReturnFunction

CANDIDATE_STD = 0.5
"""of the samples around a plan, in actions"""


def shifted(
    last_plan: Float[Tensor, "B D"], policy_plan: Float[Tensor, "B D"], action_dim: int
) -> Float[Tensor, "B D"]:
    """The last step's plan one step later; its last action is the policy's."""
    return torch.cat([last_plan[:, action_dim:], policy_plan[:, -action_dim:]], dim=1)


def samples(
    center: Float[Tensor, "B D"], count: int, generators: Sequence[torch.Generator]
) -> Float[Tensor, "B N D"]:
    """Gaussian samples around a plan, projected on the box."""
    draws = noise.normal((count, center.shape[1]), generators)
    return (center.unsqueeze(1) + CANDIDATE_STD * draws).clamp(-1, 1)


@torch.no_grad()
def best_candidates(
    return_fn: ReturnFunction,
    candidates: Float[Tensor, "B N D"],
    z: Float[Tensor, "B Z"],
    count: int,
) -> Float[Tensor, "B K D"]:
    """The first candidate, and those of the others with the highest G, ``count`` in all.

    The first is the policy's plan, so the result is never worse than it.
    """
    total = candidates.shape[1]
    if total <= count:
        return candidates
    G = return_fn(candidates.flatten(0, 1), z.repeat_interleave(total, dim=0))
    scores = torch.where(torch.isfinite(G), G, -torch.inf).view(-1, total)
    others = scores[:, 1:].topk(count - 1, dim=1).indices + 1
    index = torch.cat([torch.zeros_like(others[:, :1]), others], dim=1)
    return candidates.gather(1, index.unsqueeze(2).expand(-1, -1, candidates.shape[2]))
