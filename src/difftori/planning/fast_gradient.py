"""The return of a plan and its gradient, by the adjoint recursion of optimal control.

For G(a) = Σ_{t<H} γ^t R(z_t, a_t) + γ^H V(z_H), V(z) = min_i Q_i(z, π(z)), with costates
λ_t = ∂G/∂z_t (Bryson and Ho, "Applied Optimal Control", 1975, section 2.2):

    λ_H = γ^H ∇V(z_H)
    λ_t = γ^t ∂R/∂z + (∂d/∂z)ᵀ λ_{t+1},      ∂G/∂a_t = γ^t ∂R/∂a + (∂d/∂a)ᵀ λ_{t+1}

Where episodes can end, c(z, a) = 1 − p the probability that one goes on, C_t = Π_{k<t} c_k and W_t
the return from step t of an episode that still runs, W_t = R_t + γ c_t W_{t+1}, W_H = V:

    γ^t becomes γ^t C_t, and λ_t, ∂G/∂a_t have one more term, γ^{t+1} C_t W_{t+1} ∂c(z_t, a_t)

The same numbers as ``returns.plan_return`` and autograd, in one pass forward and one back; both
passes are ordinary differentiable operations.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from difftori.model.world_model import WorldModel
from difftori.planning import tape
from difftori.planning.returns import survival


def return_and_gradient(
    model: WorldModel,
    z: Float[Tensor, "B Z"],
    actions: Float[Tensor, "H B A"],
    discount: float,
) -> tuple[Float[Tensor, "B 1"], Float[Tensor, "H B A"]]:
    """G and ∂G/∂a, row by row; ``actions`` as they are (clamping is the caller's)."""
    horizon, latent_dim = len(actions), z.shape[-1]
    dynamics = _Dynamics(model._dynamics, latent_dim, actions)
    latents = [z]
    for t in range(horizon):
        latents.append(dynamics.step(t, latents[-1]))

    z_a = torch.cat([torch.stack(latents[:-1]), actions], dim=-1)
    rewards, reward_tape = tape.forward(model._reward, z_a)
    value, costate = _terminal(model, latents[-1])

    weights = [discount**t for t in range(horizon)]
    discounts = torch.tensor(weights, dtype=z.dtype, device=z.device).view(-1, 1, 1)
    discounts = discounts.expand_as(rewards)
    slopes = None
    if model.episodic:
        ends = _Ends(model._termination, z_a)
        slopes = ends.slopes(rewards, value, discounts, discount)
        discounts, costate = ends.alive[:-1] * discounts, ends.alive[-1] * costate
        rewards, value = ends.alive[:-1] * rewards, ends.alive[-1] * value

    G = rewards[0]
    for t in range(1, horizon):
        G = G + discount**t * rewards[t]
    G = G + discount**horizon * value
    reward_slopes = tape.backward(model._reward, reward_tape, discounts)
    if slopes is not None:
        reward_slopes = reward_slopes + slopes
    reward_z, reward_a = reward_slopes.split([latent_dim, actions.shape[-1]], dim=-1)
    costate = discount**horizon * costate
    hidden = []
    for t in reversed(range(horizon)):
        slope = dynamics.pull_back_to_hidden(t, costate)
        hidden.append(slope)
        if t > 0:
            costate = torch.addmm(reward_z[t], slope, dynamics.weight_z)
    gradient = reward_a + torch.stack(hidden[::-1]) @ dynamics.weight_a
    return G, gradient


class _Ends:
    """Where the episode may end along a plan."""

    def __init__(self, network: nn.Sequential, z_a: Float[Tensor, "H B ZA"]) -> None:
        self._network = network
        logits, self._tape = tape.forward(network, z_a)
        self._going_on = torch.sigmoid(-logits)
        self.alive = survival(self._going_on)
        """C_0 … C_H, ``[H+1, B, 1]``"""

    def slopes(
        self,
        rewards: Float[Tensor, "H B 1"],
        value: Float[Tensor, "B 1"],
        discounts: Float[Tensor, "H B 1"],
        discount: float,
    ) -> Float[Tensor, "H B ZA"]:
        """γ^{t+1} C_t W_{t+1} ∂c(z_t, a_t), given R_t, V and γ^t."""
        returns = [value]
        for t in reversed(range(1, len(rewards))):
            returns.append(rewards[t] + discount * self._going_on[t] * returns[-1])
        # c is σ(−logit), and its derivative −c (1 − c)
        of_logit = -self._going_on * (1 - self._going_on)
        c = discount * discounts * self.alive[:-1] * torch.stack(returns[::-1]) * of_logit
        return tape.backward(self._network, self._tape, c)


class _Dynamics:
    """The dynamics network along a plan; its first layer's share of the actions is had at once."""

    def __init__(
        self, network: nn.Sequential, latent_dim: int, actions: Float[Tensor, "H B A"]
    ) -> None:
        first, second, third = network[0], network[2], network[4]
        assert isinstance(first, nn.Linear)
        assert isinstance(second, nn.Linear)
        assert isinstance(third, nn.Linear)
        self._second, self._third = second, third
        self.weight_z, self.weight_a = first.weight.split([latent_dim, actions.shape[-1]], dim=1)
        self._from_actions = functional.linear(actions, self.weight_a, first.bias)
        self._hidden: list[tuple[Tensor, Tensor]] = []

    def step(self, t: int, z: Float[Tensor, "B Z"]) -> Float[Tensor, "B Z"]:
        one = functional.elu(torch.addmm(self._from_actions[t], z, self.weight_z.t()))
        two = functional.elu(self._second(one))
        self._hidden.append((one, two))
        return self._third(two)

    def pull_back_to_hidden(
        self, t: int, costate: Float[Tensor, "B Z"]
    ) -> Float[Tensor, "B hidden"]:
        """λ_{t+1} pulled back to the first layer's output, before its ELU."""
        one, two = self._hidden[t]
        slope = (costate @ self._third.weight) * tape.elu_slope(two)
        return (slope @ self._second.weight) * tape.elu_slope(one)


def _terminal(
    model: WorldModel, z: Float[Tensor, "B Z"]
) -> tuple[Float[Tensor, "B 1"], Float[Tensor, "B Z"]]:
    """V(z) = min_i Q_i(z, π(z)) and ∇V."""
    logits, policy_tape = tape.forward(model._pi, z)
    action = torch.tanh(logits)
    z_a = torch.cat([z, action], dim=-1)
    q1, tape1 = tape.forward(model._Q1, z_a)
    q2, tape2 = tape.forward(model._Q2, z_a)
    # the minimum's slope, shared where both are equal
    share1 = ((q1 < q2).to(z.dtype) + (q1 <= q2).to(z.dtype)) / 2
    slopes = tape.backward(model._Q1, tape1, share1)
    slopes = slopes + tape.backward(model._Q2, tape2, 1 - share1)
    slope_z, slope_a = slopes.split([z.shape[-1], action.shape[-1]], dim=-1)
    through_policy = tape.backward(model._pi, policy_tape, slope_a * (1 - action.square()))
    return torch.minimum(q1, q2), slope_z + through_policy
