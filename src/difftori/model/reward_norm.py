"""Rewards of a usual size, by what has been seen so far."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class RewardNorm(nn.Module):
    """Running mean square, as a buffer: it is saved with the weights.

    Rewards whose root mean square is above 1 are divided by it. Smaller ones pass as they are: a
    rare reward of 1 must not become a large one.
    """

    count: Tensor
    mean_square: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("mean_square", torch.zeros(()))

    @torch.no_grad()
    def update(self, reward: Float[Tensor, "N"]) -> None:
        """Take N more rewards into account."""
        self.count.add_(len(reward))
        share = len(reward) / self.count
        mean_square = reward.double().square().mean()  # a sum of squares may overflow float32
        self.mean_square.lerp_(mean_square.to(self.mean_square), share)

    def forward(self, reward: Float[Tensor, "*B 1"]) -> Float[Tensor, "*B 1"]:
        return reward * self.mean_square.clamp(min=1).rsqrt()
