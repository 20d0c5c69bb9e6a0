"""The return of a plan and its gradient, by the adjoint recursion of optimal control.

For G(a) = Σ_{t<H} γ^t R(z_t, a_t) + γ^H V(z_H), V(z) = min_i Q_i(z, π(z)), with costates
λ_t = ∂G/∂z_t (Bryson and Ho, "Applied Optimal Control", 1975, section 2.2):

    λ_H = γ^H ∇V(z_H)
    λ_t = γ^t ∂R/∂z + (∂d/∂z)ᵀ λ_{t+1},      ∂G/∂a_t = γ^t ∂R/∂a + (∂d/∂a)ᵀ λ_{t+1}

In an episodic model c(z, a) is the probability that the episode goes on, C_t = Π_{k<t} c_k, and W_t
the return from step t of an episode that still runs: W_t = R_t + γ c_t W_{t+1}, W_H = V. There γ^t
becomes γ^t C_t, and λ_t and ∂G/∂a_t have one more term, γ^{t+1} C_t W_{t+1} ∂c(z_t, a_t).

The same numbers as ``returns.plan_return`` and autograd, in one pass forward and one back; both
passes are ordinary differentiable operations. ``returns.py`` is where a plan is scored; here its
derivative is written out for the networks of ``WorldModel``, and ``unknown_part`` tells when a
model has anything else in it. ``gradient_function`` then leaves the gradient to autograd.
"""

import copy
import logging

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from difftori.compiling.compiler import Compiler
from difftori.model.world_model import WorldModel, value_of
from difftori.planning import tape
from difftori.planning.returns import plan_return, survival
from difftori.sections import TrajectoryConfig
from difftori.solvers.solution import GradientFunction, flatten, unflatten

logger = logging.getLogger(__name__)


def gradient_function(
    model: WorldModel, config: TrajectoryConfig, compiler: Compiler, spread: float = 0.0
) -> GradientFunction | None:
    """G(clamp(a, −1, 1)) and its gradient, or None where that is autograd's to find.

    ``spread`` is κ, which adds κ |Q1 − Q2| to the terminal value.
    """
    if config.gradient == "autograd":
        return None
    unknown = unknown_part(model)
    if unknown is not None:
        logger.info(f"the planner's gradient is autograd's: the adjoint does not know {unknown}")
        return None
    return AdjointGradient(model, config.discount, compiler, spread)


class AdjointGradient:
    """G(clamp(a, −1, 1)) of flat plans and its gradient, compiled if that is asked for."""

    def __init__(
        self, model: WorldModel, discount: float, compiler: Compiler, spread: float = 0.0
    ) -> None:
        self._model = model
        self._discount = discount
        self._spread = spread
        # The first differentiated iteration's plan has no graph, the later ones' have.
        self._compiled = compiler(self._clamped, "the planner", with_graph=(0,))
        self._discounts: dict[tuple[int, torch.dtype, torch.device], Tensor] = {}

    def __call__(
        self, flat_actions: Float[Tensor, "B D"], z: Float[Tensor, "B Z"]
    ) -> tuple[Float[Tensor, "B 1"], Float[Tensor, "B D"]]:
        """The gradient is zero where an action is outside the box."""
        horizon = flat_actions.shape[1] // self._model.action_dim
        key = (horizon, z.dtype, z.device)
        if key not in self._discounts:
            # made once: in the loop, it would be a copy that waits for the device
            self._discounts[key] = discounts(self._discount, horizon, z)
        return self._compiled(flat_actions, z, self._discounts[key])

    def _clamped(self, flat_actions: Tensor, z: Tensor, discounts: Tensor) -> tuple[Tensor, Tensor]:
        actions = unflatten(flat_actions.clamp(-1, 1), self._model.action_dim)
        G, gradient = return_and_gradient(
            self._model, z, actions, self._discount, discounts, self._spread
        )
        return G, flatten(gradient) * (flat_actions.abs() <= 1)


def discounts(discount: float, horizon: int, like: Tensor) -> Float[Tensor, "H 1 1"]:
    """γ^t, t < H."""
    weights = [discount**t for t in range(horizon)]
    return torch.tensor(weights, dtype=like.dtype, device=like.device).view(-1, 1, 1)


def return_and_gradient(
    model: WorldModel,
    z: Float[Tensor, "B Z"],
    actions: Float[Tensor, "H B A"],
    discount: float,
    discounts: Float[Tensor, "H 1 1"],
    spread: float = 0.0,
) -> tuple[Float[Tensor, "B 1"], Float[Tensor, "H B A"]]:
    """G and ∂G/∂a, row by row; ``actions`` as they are (clamping is the caller's).

    Args:
        discount: γ, per agent step.
        discounts: γ^t, t < H.
        spread: κ, which adds κ |Q1 − Q2| to the terminal value.
    """
    horizon, latent_dim = len(actions), z.shape[-1]
    dynamics = _Dynamics(model._dynamics, latent_dim, actions)
    latents = [z]
    for t in range(horizon):
        latents.append(dynamics.step(t, latents[-1]))

    z_a = torch.cat([torch.stack(latents[:-1]), actions], dim=-1)
    rewards, reward_tape = tape.forward(model._reward, z_a)
    value, costate = _terminal(model, latents[-1], spread)

    weights = discounts.expand_as(rewards)
    slopes_of_ends = None
    if model.episodic:
        ends = _Ends(model._termination, z_a)
        slopes_of_ends = ends.slopes(rewards, value, weights, discount)
        weights, costate = ends.alive[:-1] * weights, ends.alive[-1] * costate
        rewards, value = ends.alive[:-1] * rewards, ends.alive[-1] * value

    G = rewards[0]
    for t in range(1, horizon):
        G = G + discount**t * rewards[t]
    G = G + discount**horizon * value

    slopes = tape.backward(model._reward, reward_tape, weights)
    if slopes_of_ends is not None:
        slopes = slopes + slopes_of_ends
    slope_z, slope_a = slopes.split([latent_dim, actions.shape[-1]], dim=-1)
    costate = discount**horizon * costate
    hidden = []
    for t in reversed(range(horizon)):
        of_hidden = dynamics.pull_back_to_hidden(t, costate)
        hidden.append(of_hidden)
        if t > 0:
            costate = torch.addmm(slope_z[t], of_hidden, dynamics.weight_z)
    gradient = slope_a + torch.stack(hidden[::-1]) @ dynamics.weight_a
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
        weights: Float[Tensor, "H B 1"],
        discount: float,
    ) -> Float[Tensor, "H B ZA"]:
        """γ^{t+1} C_t W_{t+1} ∂c(z_t, a_t), given R_t, V and γ^t."""
        returns = [value]
        for t in reversed(range(1, len(rewards))):
            returns.append(rewards[t] + discount * self._going_on[t] * returns[-1])
        # c is σ(−logit), and its derivative −c (1 − c)
        of_logit = -self._going_on * (1 - self._going_on)
        of_end = discount * weights * self.alive[:-1] * torch.stack(returns[::-1]) * of_logit
        return tape.backward(self._network, self._tape, of_end)


class _Dynamics:
    """The dynamics network along a plan; its first layer's share of the actions is had at once."""

    def __init__(
        self, network: nn.Sequential, latent_dim: int, actions: Float[Tensor, "H B A"]
    ) -> None:
        first = network[0]
        assert isinstance(first, nn.Linear)
        self._later_layers = list(network)[1:]
        self.weight_z, self.weight_a = first.weight.split([latent_dim, actions.shape[-1]], dim=1)
        self._from_actions = functional.linear(actions, self.weight_a, first.bias)
        self._tapes: list[tape.Tape] = []

    def step(self, t: int, z: Float[Tensor, "B Z"]) -> Float[Tensor, "B Z"]:
        hidden = torch.addmm(self._from_actions[t], z, self.weight_z.t())
        z_next, recorded = tape.forward(self._later_layers, hidden)
        self._tapes.append(recorded)
        return z_next

    def pull_back_to_hidden(
        self, t: int, costate: Float[Tensor, "B Z"]
    ) -> Float[Tensor, "B hidden"]:
        """λ_{t+1} pulled back to the first layer's output."""
        return tape.backward(self._later_layers, self._tapes[t], costate)


def _terminal(
    model: WorldModel, z: Float[Tensor, "B Z"], spread: float
) -> tuple[Float[Tensor, "B 1"], Float[Tensor, "B Z"]]:
    """V(z), the ``value_of`` both critics at π(z), and ∇V."""
    logits, policy_tape = tape.forward(model._pi, z)
    action = torch.tanh(logits)
    z_a = torch.cat([z, action], dim=-1)
    q1, tape1 = tape.forward(model._Q1, z_a)
    q2, tape2 = tape.forward(model._Q2, z_a)
    # the minimum's slope, shared where both are equal
    share1 = ((q1 < q2).to(z.dtype) + (q1 <= q2).to(z.dtype)) / 2
    if spread != 0:
        share1 = (1 - spread) * share1 + spread * (1 - share1)
    slopes = tape.backward(model._Q1, tape1, share1)
    slopes = slopes + tape.backward(model._Q2, tape2, 1 - share1)
    slope_z, slope_a = slopes.split([z.shape[-1], action.shape[-1]], dim=-1)
    through_policy = tape.backward(model._pi, policy_tape, slope_a * (1 - action.square()))
    return value_of(q1, q2, spread), slope_z + through_policy


# ---- the guard


def unknown_part(model: WorldModel) -> str | None:
    """What of the model the adjoint does not know; None if it finds what autograd finds."""
    if type(model) is not WorldModel:
        return f"a {type(model).__name__}"
    try:
        return None if _agrees_with_returns(model) else "what the model computes of its networks"
    except TypeError as error:  # of a layer
        return str(error)


@torch.enable_grad()
def _agrees_with_returns(model: WorldModel) -> bool:
    """Whether both ways give the same G and gradient, for random weights and a random plan."""
    generator = torch.Generator().manual_seed(0)
    twin = copy.deepcopy(model).to_empty(device="cpu").double()
    for parameter in twin.parameters():
        parameter.data.normal_(std=parameter.shape[-1] ** -0.5, generator=generator)
    first = twin._dynamics[0]
    if not isinstance(first, nn.Linear):
        raise TypeError(f"a {type(first).__name__} as the first layer of _dynamics")
    latent_dim = first.in_features - twin.action_dim
    z = torch.randn(1, latent_dim, dtype=torch.float64, generator=generator)
    shape = (3, 1, twin.action_dim)
    actions = torch.rand(shape, dtype=torch.float64, generator=generator).requires_grad_()
    G = plan_return(twin, z, actions, 0.9)
    (gradient,) = torch.autograd.grad(G.sum(), actions)
    ours = return_and_gradient(twin, z, actions, 0.9, discounts(0.9, 3, z))
    return torch.allclose(G, ours[0]) and torch.allclose(gradient, ours[1])
