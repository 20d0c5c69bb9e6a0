"""World models simple enough that their best plan is known, and a problem for the solvers."""

import torch
from torch import Tensor, nn

from builders import random_obs
from difftori.model.world_model import WorldModel
from difftori.planning.returns import plan_return, policy_rollout
from difftori.solvers.solution import ReturnFunction, SolverOptions


class FakeModel(WorldModel):
    """No networks: the latent is the observation, rewards and values are given numbers."""

    def __init__(self, action_dim: int = 1, reward: float = 1.0, value: float = 0.0) -> None:
        nn.Module.__init__(self)
        self.obs_ndim = 1
        self.action_dim, self.hidden_dim = action_dim, 1
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


OPTIONS = SolverOptions(
    max_iterations=12,
    step_size=1e-3,
    damping=1.0,
    value_offset=1000.0,
    rel_err_tolerance=0.0,
    backward_mode="unroll",
    backward_num_iterations=4,
)
"""small steps, so that plans stay inside the box"""
HORIZON = 3


def model_return(model: WorldModel) -> ReturnFunction:
    def return_fn(flat: Tensor, z: Tensor) -> Tensor:
        actions = flat.clamp(-1, 1).reshape(len(flat), -1, 2).transpose(0, 1)
        return plan_return(model, z, actions, 0.99)

    return return_fn


def problem(model: WorldModel, batch: int = 3) -> tuple[Tensor, Tensor]:
    """First guesses and latents, both without a graph."""
    with torch.no_grad():
        z = model.encode(random_obs(batch))
        guess = policy_rollout(model, z, HORIZON).transpose(0, 1).flatten(1)
    return guess, z
