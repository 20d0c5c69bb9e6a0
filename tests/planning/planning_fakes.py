"""World models simple enough that their best plan is known."""

import torch
from torch import Tensor, nn

from difftori.model.world_model import WorldModel


class FakeModel(WorldModel):
    """No networks: the latent is the observation, rewards and values are given numbers."""

    def __init__(self, action_dim: int = 1, reward: float = 1.0, value: float = 0.0) -> None:
        nn.Module.__init__(self)
        self.obs_ndim = 1
        self.action_dim = action_dim
        self._reward_value = reward
        self._value = value

    def encode(self, obs: Tensor) -> Tensor:
        return obs

    def next_latent(self, z: Tensor, action: Tensor) -> Tensor:
        return z

    def reward(self, z: Tensor, action: Tensor) -> Tensor:
        return self._reward_value + 0 * action.sum(dim=-1, keepdim=True)

    def policy(self, z: Tensor, noise: Tensor | None = None) -> Tensor:
        mean = z.new_zeros(*z.shape[:-1], self.action_dim)
        return mean if noise is None else mean + noise

    def q(self, z: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        value = torch.full_like(z[..., :1], self._value)
        return value, value + 1


class MayEnd(FakeModel):
    """Every step ends the episode with a probability of one half."""

    episodic = True

    def termination_logit(self, z: Tensor, action: Tensor) -> Tensor:
        return 0 * action.sum(dim=-1, keepdim=True)


class TargetModel(FakeModel):
    """Reward −‖a − target‖²: the best plan repeats the target."""

    def __init__(self, target: list[float]) -> None:
        super().__init__(action_dim=len(target))
        self.register_buffer("target", torch.tensor(target))

    def reward(self, z: Tensor, action: Tensor) -> Tensor:
        return -(action - self.target).square().sum(dim=-1, keepdim=True)


class LinearModel(FakeModel):
    """z' = z + a and reward −(z + a)²: the best plan goes to the origin at once and stays."""

    def next_latent(self, z: Tensor, action: Tensor) -> Tensor:
        return z + action

    def reward(self, z: Tensor, action: Tensor) -> Tensor:
        return -(z + action).square().sum(dim=-1, keepdim=True)


class RewardParameterModel(FakeModel):
    """Reward scale · Σ a: its gradient with respect to the plan is ``scale`` everywhere."""

    def __init__(self, scale: float, action_dim: int = 1) -> None:
        super().__init__(action_dim)
        self.scale = nn.Parameter(torch.tensor(scale))

    def reward(self, z: Tensor, action: Tensor) -> Tensor:
        return self.scale * action.sum(dim=-1, keepdim=True)
