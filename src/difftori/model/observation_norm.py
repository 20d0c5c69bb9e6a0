"""Observations with mean 0 and standard deviation 1, by what has been seen so far."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

LARGEST = 10.0
"""normalized observations are clamped at this, in standard deviations"""


class ObservationNorm(nn.Module):
    """Running mean and variance of each entry, as buffers: they are saved with the weights.

    Before the first ``update`` observations are only clamped.
    """

    count: Tensor
    mean: Tensor
    variance: Tensor

    def __init__(self, obs_dim: int) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(obs_dim))
        self.register_buffer("variance", torch.ones(obs_dim))

    @torch.no_grad()
    def update(self, obs: Float[Tensor, "N D"]) -> None:
        """Take N more observations into account (Chan et al., 1983, eq. 2.1)."""
        obs = obs.to(self.mean)
        share = len(obs) / (self.count + len(obs))
        difference = obs.mean(dim=0) - self.mean
        within = torch.lerp(self.variance, obs.var(dim=0, correction=0), share)
        self.variance.copy_(within + share * (1 - share) * difference.square())
        self.mean.add_(share * difference)
        self.count.add_(len(obs))

    def forward(self, obs: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        scale = torch.rsqrt(self.variance + 1e-6)
        return ((obs - self.mean) * scale).clamp(-LARGEST, LARGEST)
