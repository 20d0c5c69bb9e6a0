"""What an agent may look for before it has seen a reward: observations that are rare."""

import torch
from jaxtyping import Float
from torch import Tensor


@torch.no_grad()
def novelty(obs: Tensor, neighbours: int = 12) -> Float[Tensor, "H B 1"]:
    """How far each observation of a batch lies from the others: log(1 + mean distance).

    The distance is the mean over the nearest ``neighbours`` of the same time step in the other
    sequences (a sequence drawn twice is one of them), with each entry divided by its standard
    deviation in the batch (Liu and Abbeel, 2021: their reward, of observations in place of
    representations). A batch of one sequence has none: all is 0. ``obs``: ``[H, B, *O]``.
    """
    if obs.shape[1] == 1:
        return obs.new_zeros(len(obs), 1, 1, dtype=torch.float32)
    entries = obs.flatten(2).float()
    deviation, mean = torch.std_mean(entries, dim=(0, 1))
    scaled = (entries - mean) / deviation.clamp(min=1e-6)
    distance = torch.cdist(scaled, scaled)
    nearest = distance.topk(min(neighbours + 1, obs.shape[1]), largest=False).values
    return torch.log1p(nearest[..., 1:].mean(dim=-1, keepdim=True))
