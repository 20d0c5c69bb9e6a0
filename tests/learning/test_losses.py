"""The batched losses against loops over time, written from the method's description."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from builders import random_batch, random_obs, tiny_config, tiny_model
from difftori.learning.losses import (
    LOSS_CAP,
    ModelLoss,
    model_loss,
    plan_loss,
    policy_loss,
    td_targets,
)
from difftori.model.world_model import WorldModel
from difftori.planning.returns import rollout
from difftori.types import Batch

COEFFICIENTS = {
    "consistency_loss": 2.0,
    "reward_loss": 0.5,
    "value_loss": 0.1,
    "value_s_loss": 0.1,
}
NOISE = 0.05 * torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(11))


@pytest.fixture
def target() -> WorldModel:
    return tiny_model(tiny_config(), seed=1).target_copy()


def whole_loss(
    model: WorldModel,
    target: WorldModel,
    batch: Batch,
    *,
    noise: Tensor = NOISE,
    rho: float = 0.5,
    coefficients: dict[str, float] = COEFFICIENTS,
    target_spread: float = 0.0,
) -> ModelLoss:
    return model_loss(
        model,
        target,
        batch,
        noise,
        discount=0.9,
        rho=rho,
        coefficients=coefficients,
        target_spread=target_spread,
    )


def naive_losses(
    model: WorldModel,
    target: WorldModel,
    batch: Batch,
    discount: float,
    rho: float,
    value_of: Callable[[Tensor, Tensor], Tensor],
) -> dict[str, Tensor]:
    """Each kind of loss ``[B]``, and the priorities, step by step."""
    size = len(batch.obs)
    sums = dict.fromkeys((*COEFFICIENTS, "priority"), torch.zeros(size))
    z, obs = model.encode(batch.obs), batch.obs
    for t in range(len(batch.action)):
        action, reward, next_obs = batch.action[t], batch.reward[t], batch.next_obs[t]
        with torch.no_grad():
            z_online = model.encode(next_obs)
            next_action = (torch.tanh(model._pi(z_online)) + NOISE[t]).clamp(-1, 1)
            goes_on = discount * (1 - batch.terminated[t])
            y = reward + goes_on * value_of(*target.q(z_online, next_action))
            y_obs = reward + goes_on * value_of(*target.q_obs(next_obs, next_action))
            z_target = target.encode(next_obs)
        z_next = model.next_latent(z, action)
        step = {
            "consistency_loss": ((z_next - z_target) ** 2).mean(dim=1),
            "reward_loss": ((model.reward(z, action) - reward) ** 2)[:, 0],
            "value_loss": sum((q - y) ** 2 for q in model.q(z, action))[:, 0],
            "value_s_loss": sum((q - y_obs) ** 2 for q in model.q_obs(obs, action))[:, 0],
            "priority": sum((q - y).abs() for q in model.q(z, action))[:, 0],
        }
        sums = {name: sums[name] + rho**t * value for name, value in step.items()}
        z, obs = z_next, next_obs
    return sums


def test_the_losses_see_normalized_rewards(model: WorldModel, target: WorldModel) -> None:
    batch, seen = random_batch(), torch.full((9,), 4.0)
    normalizing = tiny_model(tiny_config(normalize_rewards=True))
    normalizing.load_state_dict(model.state_dict(), strict=False)
    normalizing.observe(random_obs(10), seen)
    loss = whole_loss(normalizing, target, batch)
    expected = whole_loss(model, target, replace(batch, reward=batch.reward / 4))
    torch.testing.assert_close(loss.weighted, expected.weighted)


@pytest.mark.parametrize("terminated", [0.0, 1.0])
@pytest.mark.parametrize("rho", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("spread", [0.0, 0.5])
def test_model_loss_equals_a_loop_over_time(
    model: WorldModel, target: WorldModel, spread: float, rho: float, terminated: float
) -> None:
    """A spread of 0 takes the smaller of both critics, 0.5 their mean."""
    batch = random_batch()
    batch.terminated[-1, 1:3] = terminated
    loss = whole_loss(model, target, batch, rho=rho, target_spread=spread)
    value_of = (lambda q1, q2: (q1 + q2) / 2) if spread else torch.minimum
    naive = naive_losses(model, target, batch, 0.9, rho, value_of)
    for name in COEFFICIENTS:
        torch.testing.assert_close(loss.terms[name], naive[name].detach().mean())
    total = sum(coefficient * naive[name] for name, coefficient in COEFFICIENTS.items())
    torch.testing.assert_close(loss.terms["total_loss"], total.detach().mean())
    expected = (total * batch.weight).mean()
    torch.testing.assert_close(loss.weighted, expected)
    torch.testing.assert_close(loss.terms["weighted_loss"], expected.detach())
    torch.testing.assert_close(loss.priority, naive["priority"].detach())
    ours = torch.autograd.grad(loss.weighted, model.model_parameters())
    theirs = torch.autograd.grad(expected, model.model_parameters())
    for our_gradient, their_gradient in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our_gradient, their_gradient, atol=1e-5, rtol=1e-4)


def test_policy_loss_equals_a_loop_over_time(model: WorldModel) -> None:
    latents = model.encode(random_obs(4, 5)).detach()
    noise = 0.05 * torch.randn(4, 5, 2, generator=torch.Generator().manual_seed(2))
    expected = torch.zeros(())
    for t, z in enumerate(latents):
        q = torch.minimum(*model.q(z, (torch.tanh(model._pi(z)) + noise[t]).clamp(-1, 1)))
        expected = expected - 0.5**t * q.mean()
    torch.testing.assert_close(policy_loss(model, latents, noise, rho=0.5), expected)


def test_plan_loss_is_the_smaller_observation_critic_negated(model: WorldModel) -> None:
    obs, action = random_obs(6), 2 * torch.rand(6, 2) - 1
    q1, q2 = model.q_obs(obs, action)
    expected = [-min(a, b) for a, b in zip(q1[:, 0].tolist(), q2[:, 0].tolist(), strict=True)]
    assert plan_loss(model, obs, action).tolist() == expected
    assert (q1 < q2).any()
    assert (q1 > q2).any()


def test_latents_are_the_detached_rollout(model: WorldModel, target: WorldModel) -> None:
    batch = random_batch()
    latents = whole_loss(model, target, batch).latents
    torch.testing.assert_close(
        latents, rollout(model, model.encode(batch.obs), batch.action).detach()
    )
    assert not latents.requires_grad


def test_targets_use_online_encoder_and_policy_and_target_critics(
    model: WorldModel, target: WorldModel
) -> None:
    batch = random_batch()

    def targets() -> tuple[Tensor, Tensor]:
        return td_targets(model, target, batch.next_obs, batch.reward, batch.terminated, 0.9, None)

    before = targets()
    for network, matters in (
        (target._encoder, False),
        (target._pi, False),
        (model._Q1, False),
        (model._Q2_s, False),
        (model._encoder, True),
        (model._pi, True),
        (target._Q1, True),
    ):
        weight = list(network.parameters())[-2]
        kept = weight.data.clone()
        weight.data.mul_(-3)
        after = targets()
        weight.data.copy_(kept)
        assert torch.equal(before[0], after[0]) == (not matters)


def test_nothing_comes_after_a_terminated_transition(model: WorldModel, target: WorldModel) -> None:
    """And the target of the other rows is the same, bit for bit."""
    batch = random_batch()
    ended = batch.terminated.clone()
    ended[2, 1] = 1.0
    plain, cut = (
        td_targets(model, target, batch.next_obs, batch.reward, terminated, 0.9, None)
        for terminated in (batch.terminated, ended)
    )
    for y, y_cut in zip(plain, cut, strict=True):
        assert torch.equal(y_cut[2, 1], batch.reward[2, 1])
        assert torch.equal(y_cut[ended == 0], y[ended == 0])
        assert not torch.equal(y[2, 1], batch.reward[2, 1])


def test_a_spread_of_one_half_bootstraps_from_the_mean(
    model: WorldModel, target: WorldModel
) -> None:
    batch = random_batch()
    y, y_obs = td_targets(
        model, target, batch.next_obs, batch.reward, batch.terminated, 0.9, None, spread=0.5
    )
    z = model.encode(batch.next_obs)
    action = model.policy(z)
    for ours, (q1, q2) in ((y, target.q(z, action)), (y_obs, target.q_obs(batch.next_obs, action))):
        torch.testing.assert_close(ours, batch.reward + 0.9 * (q1 + q2) / 2)
        assert not torch.allclose(q1, q2)


def test_consistency_is_to_the_target_encoder(model: WorldModel, target: WorldModel) -> None:
    batch = random_batch()
    before = whole_loss(model, target, batch).terms
    target._encoder[-1].bias.data += 1
    after = whole_loss(model, target, batch).terms
    assert before["consistency_loss"] != after["consistency_loss"]
    assert before["value_loss"] == after["value_loss"]


def test_importance_weights_weigh_the_gradient_and_not_the_log(
    model: WorldModel, target: WorldModel
) -> None:
    batch = random_batch()
    nothing = whole_loss(model, target, replace(batch, weight=torch.zeros(4)))
    assert nothing.weighted == 0
    assert nothing.terms["total_loss"] == whole_loss(model, target, batch).terms["total_loss"]


def test_losses_and_priorities_are_capped(model: WorldModel, target: WorldModel) -> None:
    """A row whose losses are all at the cap gives no gradient."""
    batch = random_batch()
    reward = batch.reward.clone()
    reward[:, 1] = 1e6
    loss = whole_loss(model, target, replace(batch, reward=reward, weight=torch.eye(4)[1]))
    assert loss.priority[1] == LOSS_CAP
    assert (loss.priority[[0, 2, 3]] < LOSS_CAP).all()
    gradients = torch.autograd.grad(loss.weighted, list(model._reward.parameters()))
    assert not any(gradient.any() for gradient in gradients)
    consistency = loss.weighted - LOSS_CAP * (0.5 + 0.1 + 0.1) / 4
    assert 0 < consistency < 100


@pytest.mark.parametrize("wrong", ["missing", "extra"])
def test_the_set_of_losses_is_the_set_of_coefficients(
    model: WorldModel, target: WorldModel, wrong: str
) -> None:
    coefficients = dict(COEFFICIENTS)
    if wrong == "missing":
        del coefficients["value_s_loss"]
    else:
        coefficients["entropy_loss"] = 1.0
    with pytest.raises(AssertionError, match="value_s_loss"):
        whole_loss(model, target, random_batch(), coefficients=coefficients)


def test_a_horizon_of_one(model: WorldModel, target: WorldModel) -> None:
    batch = random_batch(horizon=1)
    loss = whole_loss(model, target, batch, noise=NOISE[:1])
    naive = naive_losses(model, target, batch, 0.9, 0.5, torch.minimum)
    torch.testing.assert_close(loss.terms["value_loss"], naive["value_loss"].detach().mean())


def test_targets_carry_no_gradient(model: WorldModel, target: WorldModel) -> None:
    """The policy takes part in the targets alone."""
    loss = whole_loss(model, target, random_batch())
    gradients = torch.autograd.grad(loss.weighted, model.policy_parameters(), allow_unused=True)
    assert all(gradient is None for gradient in gradients)
