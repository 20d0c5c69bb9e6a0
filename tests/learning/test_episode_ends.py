"""What the learner makes of episodes that end by themselves."""

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from builders import random_batch, tiny_config, tiny_model, tiny_spec
from difftori.learning import losses
from difftori.learning.learner import Learner
from difftori.model.world_model import WorldModel
from difftori.planning.returns import plan_return, rollout
from difftori.replay.buffer import ReplayBuffer
from difftori.types import Batch, EnvSpec, Episode

DISCOUNT = 0.9
LAST_REWARD = 150.0
"""twice its square is above the cap of a loss"""
LENGTH = 4
CONFIG = tiny_config(
    "mode=default", lr=3e-3, discount=DISCOUNT, tau=0.1, batch_size=32, mlp_dim=32, latent_dim=8
)
EPISODIC = EnvSpec("chain", "state", (LENGTH + 1,), 1, 20, 1, can_terminate=True)


def chain(rng: np.random.Generator, *, terminated: bool) -> Episode:
    """Rewards 1, 1, 1 and a large last one; the observation says which step it is."""
    obs = np.eye(LENGTH + 1, dtype=np.float32)
    reward = np.array([1.0] * (LENGTH - 1) + [LAST_REWARD], np.float32)
    action = rng.uniform(-1, 1, (LENGTH, 1)).astype(np.float32)
    ends = (np.arange(LENGTH) == LENGTH - 1) & terminated
    return Episode(obs, action, reward, ends)


@functools.cache
def trained(*, terminated: bool, updates: int = 400) -> WorldModel:
    """On fifty such episodes, which all end or are all cut."""
    torch.manual_seed(0)
    model = WorldModel(EPISODIC, CONFIG.model)
    learner = Learner(model, CONFIG.learner, generator=torch.Generator(), max_nonfinite=1)
    buffer = ReplayBuffer(
        EPISODIC,
        capacity=1000,
        horizon=CONFIG.replay.horizon,
        alpha=0.6,
        beta=0.4,
        storage_device="cpu",
        compute_device="cpu",
        generator=torch.Generator(),
    )
    rng = np.random.default_rng(0)
    for _ in range(50):
        buffer.add(chain(rng, terminated=terminated))
    for step in range(updates):
        batch = buffer.sample(32)
        buffer.update_priorities(batch.index, learner.update(batch, step).priority)
    return model


def values(model: WorldModel) -> tuple[Tensor, Tensor]:
    """Both kinds of critics along the chain, ``[LENGTH]`` each."""
    obs, action = torch.eye(LENGTH + 1)[:-1], torch.zeros(LENGTH, 1)
    with torch.no_grad():
        latent = torch.minimum(*model.q(model.encode(obs), action))
        return latent[:, 0], torch.minimum(*model.q_obs(obs, action))[:, 0]


def true_values() -> Tensor:
    rewards = [1.0] * (LENGTH - 1) + [LAST_REWARD]
    ahead = [sum(DISCOUNT**k * r for k, r in enumerate(rewards[t:])) for t in range(LENGTH)]
    return torch.tensor(ahead)


def test_values_are_those_of_an_episode_that_ends() -> None:
    model = trained(terminated=True)
    for learned in values(model):
        torch.testing.assert_close(learned, true_values(), rtol=0.1, atol=2.0)


def test_values_go_on_where_an_episode_was_only_cut() -> None:
    """Truncated is not terminated: the same rewards, and the targets look beyond the last one."""
    model = trained(terminated=False)
    for learned in values(model):
        assert learned[-1] > 1.1 * LAST_REWARD


def test_the_model_learns_where_episodes_end_and_plans_stop_there() -> None:
    model = trained(terminated=True)
    with torch.no_grad():
        z = model.encode(torch.eye(LENGTH + 1)[:-1])
        ends = torch.sigmoid(model.termination_logit(z, torch.zeros(LENGTH, 1)))[:, 0]
        assert (ends[:-1] < 0.1).all()
        assert ends[-1] > 0.9
        G = plan_return(model, z[-1:], torch.zeros(3, 1, 1), DISCOUNT)
    assert float(G) == pytest.approx(LAST_REWARD, rel=0.1)


def uneven_batch(batch: int = 3) -> Batch:
    """The first sequence ends after one step, the second is cut after two, the third goes on."""
    inside = torch.ones(3, batch, 1)
    inside[1:, 0] = inside[2, 1] = 0
    whole = random_batch(batch)
    whole.terminated[0, 0] = 1
    return replace(whole, inside=inside)


def loss_of(model: WorldModel, batch: Batch) -> losses.ModelLoss:
    coefficients = dict.fromkeys(("consistency_loss", "reward_loss", "value_loss"), 1.0)
    return losses.model_loss(
        model,
        model,
        batch,
        None,
        discount=DISCOUNT,
        rho=0.5,
        coefficients=coefficients | {"value_s_loss": 1.0, "termination_loss": 1.0},
    )


def episodic_model() -> WorldModel:
    return tiny_model(tiny_config(), replace(tiny_spec(), can_terminate=True))


def test_nothing_beyond_an_episodes_end_is_learned_from() -> None:
    model, batch = episodic_model(), uneven_batch()
    assert batch.inside is not None
    outside = batch.inside[..., 0] == 0
    changed = replace(
        batch,
        next_obs=batch.next_obs.masked_fill(outside[..., None], 3.0),
        action=batch.action.masked_fill(outside[..., None], 1.0),
        reward=batch.reward.masked_fill(outside[..., None], 3.0),
    )
    ours, theirs = loss_of(model, batch), loss_of(model, changed)
    assert torch.equal(ours.weighted, theirs.weighted)
    assert torch.equal(ours.priority, theirs.priority)


def test_the_cross_entropy_is_of_the_steps_that_were_taken() -> None:
    model, batch = episodic_model(), uneven_batch()
    z = rollout(model, model.encode(batch.obs), batch.action)[:-1]
    probability = torch.sigmoid(model.termination_logit(z, batch.action))
    right = torch.where(batch.terminated == 1, probability, 1 - probability)
    rho = torch.tensor([1, 0.5, 0.25]).view(3, 1, 1)
    expected = -(rho * batch.inside * right.log()).sum(dim=0).mean()
    found = loss_of(model, batch).terms["termination_loss"]
    torch.testing.assert_close(found, expected.detach())


def test_a_loss_above_the_cap_is_the_cap_and_keeps_its_direction() -> None:
    error = torch.tensor([3.0, -5.0, 200.0], requires_grad=True)
    capped = losses.scaled_to_cap(error.square())
    assert capped.tolist() == [9, 25, losses.LOSS_CAP]
    (gradient,) = torch.autograd.grad(capped.sum(), error)
    torch.testing.assert_close(gradient, torch.tensor([6.0, -10.0, 2 * losses.LOSS_CAP / 200]))


def test_the_policy_learns_where_the_episode_still_runs() -> None:
    running = losses.still_running(uneven_batch())
    assert running is not None
    assert running[:, 0, 0].tolist() == [1, 0, 0, 0]
    assert running[:, 1, 0].tolist() == [1, 1, 1, 0]  # what a cut leaves is a state like any other
    assert running[:, 2, 0].tolist() == [1, 1, 1, 1]
    assert losses.still_running(random_batch()) is None
    model, latents = episodic_model(), torch.randn(*running.shape[:2], 6)
    changed = torch.where(running == 1, latents, 3.0)
    loss, same = (losses.policy_loss(model, z, None, running, rho=0.5) for z in (latents, changed))
    assert torch.equal(loss, same)
    assert not torch.equal(loss, losses.policy_loss(model, changed, None, rho=0.5))


def test_the_learner_tells_the_policy_where_that_is(monkeypatch: pytest.MonkeyPatch) -> None:
    batch, handed = uneven_batch(), []
    learner = Learner(
        episodic_model(), tiny_config().learner, generator=torch.Generator(), max_nonfinite=1
    )
    policy_loss = learner._policy_loss

    def watched(latents: Tensor, noise: Tensor, running: Tensor) -> Tensor:
        handed.append(running)
        return policy_loss(latents, noise, running)

    monkeypatch.setattr(learner, "_policy_loss", watched)
    learner.update(batch, 0)
    assert torch.equal(handed[0], losses.still_running(batch))


def test_a_task_that_cannot_end_has_no_such_network() -> None:
    models = []
    for can_terminate in (False, True):
        torch.manual_seed(0)
        models.append(WorldModel(replace(tiny_spec(), can_terminate=can_terminate), CONFIG.model))
    fewer, more = (model.state_dict() for model in models)
    assert {name.split(".")[0] for name in more.keys() - fewer.keys()} == {"_termination"}
    assert all(torch.equal(fewer[name], more[name]) for name in fewer)
