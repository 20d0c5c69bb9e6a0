"""The return of a plan: the one place where a plan is scored."""

import torch
from jaxtyping import Float
from torch import Tensor

from difftori.model.world_model import WorldModel, value_of


def rollout(
    model: WorldModel, z: Float[Tensor, "B Z"], actions: Float[Tensor, "H B A"]
) -> Float[Tensor, "H_1 B Z"]:
    """Latents z_0 … z_H under the dynamics; ``[H+1, B, Z]``."""
    latents = [z]
    for action in actions:
        latents.append(model.next_latent(latents[-1], action))
    return torch.stack(latents)


def plan_return(
    model: WorldModel,
    z: Float[Tensor, "B Z"],
    actions: Float[Tensor, "H B A"],
    discount: float,
    terminal_noise: Float[Tensor, "B A"] | None = None,
    spread: float = 0.0,
) -> Float[Tensor, "B 1"]:
    """G(a) = Σ_{t<H} γ^t R(z_t, a_t) + γ^H min_i Q_i(z_H, π(z_H))   (DiffTORI, eq. 4).

    An episodic model discounts by γ c(z_t, a_t) instead of γ, with c its probability that the
    episode goes on: reward t counts C_t = Π_{k<t} c(z_k, a_k), the terminal value C_H.

    Args:
        z: z_0, the latent where the plan begins.
        actions: a_0 … a_{H-1}, as they are (clamping is the caller's).
        discount: γ, per agent step.
        terminal_noise: noise on π(z_H), already times its std; None takes the mean.
        spread: κ, which adds κ |Q1 − Q2| to the terminal value.
    """
    horizon = len(actions)
    latents = rollout(model, z, actions)
    rewards = model.reward(latents[:-1], actions)
    z_H = latents[-1]
    value = value_of(*model.q(z_H, model.policy(z_H, terminal_noise)), spread)
    if model.episodic:
        alive = survival(torch.sigmoid(-model.termination_logit(latents[:-1], actions)))
        rewards, value = alive[:-1] * rewards, alive[-1] * value
    G = rewards[0]
    for t in range(1, horizon):
        G = G + discount**t * rewards[t]
    return G + discount**horizon * value


def survival(going_on: Float[Tensor, "H B 1"]) -> Float[Tensor, "H_1 B 1"]:
    """C_t = Π_{k<t} c_k for t = 0 … H: that the episode still runs at step t; C_0 is 1."""
    alive = [torch.ones_like(going_on[0])]
    for c in going_on:  # the derivative of torch.cumprod would wait for the device
        alive.append(alive[-1] * c)
    return torch.stack(alive)


def policy_rollout(
    model: WorldModel,
    z: Float[Tensor, "B Z"],
    horizon: int,
    noise: Float[Tensor, "H B A"] | None = None,
) -> Float[Tensor, "H B A"]:
    """The policy's own actions from z along the dynamics."""
    actions = []
    for t in range(horizon):
        actions.append(model.policy(z, None if noise is None else noise[t]))
        if t + 1 < horizon:
            z = model.next_latent(z, actions[-1])
    return torch.stack(actions)
