"""The losses, as free functions of tensors.

TD-MPC (arXiv 2203.04955), eq. 7 to 10; DiffTORI (arXiv 2402.05421), eq. 6.

Everything is batched over the horizon where the recurrence allows it: only the latent rollout
is a loop.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from difftori.model.world_model import WorldModel, value_of
from difftori.planning.returns import rollout
from difftori.types import Batch

LOSS_CAP = 1e4
"""each sequence's loss of a kind, and its priority, are clamped at this"""


@dataclass(frozen=True)
class ModelLoss:
    """The model update's loss on a batch, and what else comes of computing it."""

    weighted: Float[Tensor, ""]
    """the scalar to differentiate"""
    terms: Mapping[str, Float[Tensor, ""]]
    """means over the batch, by name, for the log"""
    priority: Float[Tensor, "B"]
    latents: Float[Tensor, "H_1 B Z"]
    """z_0 … z_H of the rollout, detached"""


def td_targets(
    model: WorldModel,
    target: WorldModel,
    next_obs: Tensor,
    reward: Float[Tensor, "H B 1"],
    terminated: Float[Tensor, "H B 1"],
    discount: float,
    policy_noise: Float[Tensor, "H B A"] | None,
    spread: float = 0.0,
) -> tuple[Float[Tensor, "H B 1"], Float[Tensor, "H B 1"]]:
    """y_t and yˢ_t, the temporal-difference targets of the latent and observation critics.

    y_t = r_t + γ min_i Q̄_i(h(o_{t+1}), a'),  yˢ_t = r_t + γ min_i Q̄_iˢ(o_{t+1}, a'), with
    a' = π̃(h(o_{t+1})): the online encoder and policy, the target critics. Where the transition
    ``terminated`` its episode, nothing comes after r_t. ``spread`` is the κ of ``value_of``, which
    may put another value in the minimum's place.
    """
    z_next = model.encode(next_obs)
    next_action = model.policy(z_next, policy_noise)
    discount_next = discount * (1 - terminated)
    y = reward + discount_next * value_of(*target.q(z_next, next_action), spread)
    y_obs = reward + discount_next * value_of(*target.q_obs(next_obs, next_action), spread)
    return y, y_obs


def model_loss(
    model: WorldModel,
    target: WorldModel,
    batch: Batch,
    policy_noise: Float[Tensor, "H B A"] | None,
    *,
    discount: float,
    rho: float,
    coefficients: Mapping[str, float],
    target_spread: float = 0.0,
) -> ModelLoss:
    """Consistency, reward and value losses along an H-step latent rollout.

    An episodic model also has the binary cross-entropy of where episodes end.

    Args:
        batch: with augmented observations.
        policy_noise: noise of the targets' policy samples, already times its std.
        rho: ρ, the weight of each later step relative to the one before.
        coefficients: of ``consistency_loss``, ``reward_loss``, ``value_loss`` and
            ``value_s_loss``, and an episodic model's ``termination_loss``, exactly these.
        target_spread: κ of the targets' ``value_of``.
    """
    obs, next_obs, action = batch.obs, batch.next_obs, batch.action
    reward = model.normalized_reward(batch.reward)
    with torch.no_grad():
        z_target = target.encode(next_obs)
        y, y_obs = td_targets(
            model, target, next_obs, reward, batch.terminated, discount, policy_noise, target_spread
        )
    latents = rollout(model, model.encode(obs), action)
    z, z_next = latents[:-1], latents[1:]
    q1, q2 = model.q(z, action)
    observed = torch.cat([obs.unsqueeze(0), next_obs[:-1]])
    q1_obs, q2_obs = model.q_obs(observed, action)
    predicted = model.reward(z, action)

    steps = torch.arange(len(action), device=reward.device)
    rho_t = (rho**steps).to(reward.dtype).view(-1, 1, 1)
    if batch.inside is not None:
        rho_t = rho_t * batch.inside
    losses = {
        "consistency_loss": (z_next - z_target).square().mean(dim=-1, keepdim=True),
        "reward_loss": (predicted - reward).square(),
        "value_loss": (q1 - y).square() + (q2 - y).square(),
        "value_s_loss": (q1_obs - y_obs).square() + (q2_obs - y_obs).square(),
    }
    if model.episodic:
        losses["termination_loss"] = functional.binary_cross_entropy_with_logits(
            model.termination_logit(z, action), batch.terminated, reduction="none"
        )
    assert losses.keys() == coefficients.keys(), (losses.keys(), coefficients.keys())
    summed = {name: (rho_t * loss).sum(dim=0).squeeze(1) for name, loss in losses.items()}
    cap = scaled_to_cap if model.episodic else _clamped
    total = sum(
        (coefficients[name] * cap(loss) for name, loss in summed.items()),
        start=torch.zeros_like(batch.weight),
    )
    weighted = (total * batch.weight).mean()
    error = ((q1 - y).abs() + (q2 - y).abs()).detach()
    terms = {name: loss.detach().mean() for name, loss in summed.items()}
    terms |= {"total_loss": total.detach().mean(), "weighted_loss": weighted.detach()}
    return ModelLoss(
        weighted=weighted,
        terms=terms,
        priority=(rho_t * error).sum(dim=0).squeeze(1).clamp(max=LOSS_CAP),
        latents=latents.detach(),
    )


def _clamped(loss: Float[Tensor, "B"]) -> Float[Tensor, "B"]:
    """As published: a loss above the cap has no gradient."""
    return loss.clamp(max=LOSS_CAP)


def scaled_to_cap(loss: Float[Tensor, "B"]) -> Float[Tensor, "B"]:
    """The same values, but a loss above the cap keeps its gradient's direction.

    An episode's end is a surprise as large as the value that it cuts off: beyond 70, twice its
    square is above the cap, and with no gradient a critic would never learn of it.
    """
    return loss * (LOSS_CAP / loss.detach().clamp(min=LOSS_CAP))


def still_running(batch: Batch) -> Float[Tensor, "H_1 B 1"] | None:
    """1 for those of a sequence's H+1 observations from which its episode could go on.

    What follows a terminated step is none of them, what follows a truncated one is. None where the
    agent takes no episode to end by itself: then all of them are.
    """
    if batch.inside is None:
        return None
    return torch.cat([torch.ones_like(batch.inside[:1]), batch.inside * (1 - batch.terminated)])


def policy_loss(
    model: WorldModel,
    latents: Float[Tensor, "T B Z"],
    policy_noise: Float[Tensor, "T B A"] | None,
    running: Float[Tensor, "T B 1"] | None = None,
    *,
    rho: float,
) -> Float[Tensor, ""]:
    """−Σ_t ρ^t mean_B min_i Q_i(z_t, π̃(z_t)) on given latents (TD-MPC, eq. 10).

    ``running`` is 0 for latents after an episode's end, which do not count.
    """
    q = torch.minimum(*model.q(latents, model.policy(latents, policy_noise)))
    if running is not None:
        q = running * q
    rho_t = (rho ** torch.arange(len(latents), device=latents.device)).to(q.dtype)
    return -(rho_t * q.mean(dim=(1, 2))).sum()


def plan_loss(
    model: WorldModel, obs: Tensor, planned_action: Float[Tensor, "B A"]
) -> Float[Tensor, "B"]:
    """−min_i Q_iˢ(o, â), the policy-gradient loss on a planned action (DiffTORI, eq. 6)."""
    return -torch.minimum(*model.q_obs(obs, planned_action)).squeeze(1)
