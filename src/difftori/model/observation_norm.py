"""Observations with mean 0 and standard deviation 1 or more, by what has been seen so far.

Entries with a standard deviation below 0.001 stay narrower: 1e-6 is added to each variance.

Narrow entries are widened, and wide ones only centred. An angle that turns without limit would lose
what it says otherwise: when reacher's arm spins, its angle has a standard deviation of 19 rad, and
all that the angle tells would lie within a sixth of 1.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

LARGEST = 10.0
"""observations are clamped at this distance from their mean, in standard deviations"""


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
        deviation = torch.sqrt(self.variance + 1e-6)
        furthest = LARGEST * deviation
        centred = (obs - self.mean).clamp(-furthest, furthest)
        return centred / deviation.clamp(max=1)
