from typing import Any

import published
import pytest
import torch
from planning_fakes import FakeModel, LinearModel, TargetModel

from builders import generators, random_obs, tiny_config, tiny_model
from difftori.model.world_model import WorldModel
from difftori.planning.mppi import MppiPlanner, elite_scores, weighted_moments
from difftori.types import Plan

MPPI = tiny_config(num_samples=512, num_elites=64, iterations=6).mppi
SMALL = tiny_config().mppi


def plan(model: WorldModel, obs: torch.Tensor, config: object = MPPI, **changes: object) -> Plan:
    arguments = {
        "horizon": 3,
        "std_floor": 0.05,
        "carry": None,
        "explore": False,
        "generators": generators(len(obs)),
    }
    return MppiPlanner(model, config).plan(obs, **(arguments | changes))


def test_finds_the_best_constant_action() -> None:
    target = [0.6, -0.3]
    result = plan(TargetModel(target), torch.zeros(1, 1))
    expected = torch.tensor(target).expand(1, 3, 2)
    torch.testing.assert_close(result.carry, expected, atol=0.1, rtol=0)
    torch.testing.assert_close(result.action, expected[:, 0], atol=0.25, rtol=0)


def test_finds_the_best_plan_of_a_linear_model() -> None:
    """From z the best plan is −z, 0, 0: the first action undoes the state, the rest stay."""
    z = torch.tensor([[0.6], [-0.4]])
    result = plan(LinearModel(), z)
    expected = torch.stack([torch.tensor([-z_0, 0.0, 0.0]) for z_0 in z[:, 0]]).unsqueeze(2)
    torch.testing.assert_close(result.carry, expected, atol=0.12, rtol=0)


@pytest.mark.parametrize("seed", range(4))
def test_it_is_the_published_planner(seed: int) -> None:
    """The benchmarks' own writing of it, with the same draws."""
    config = tiny_config(min_std=0.3, temperature=2, iterations=3)
    model, obs = tiny_model(config, seed=seed), random_obs(1, seed=seed)
    ours = plan(model, obs, config.mppi, std_floor=0.3, generators=generators(1, seed))
    (generator,) = generators(1, seed)
    theirs = published.sample_plan(model, config.mppi, obs, 3, generator)
    torch.testing.assert_close(ours.action, theirs, atol=1e-5, rtol=0)


def test_policy_candidates_are_its_rollout_with_noise(model: WorldModel) -> None:
    config = tiny_config(min_std=0.3).mppi
    z, draws = model.encode(random_obs(1)), torch.randn(1, 3, 5, 2)
    found = MppiPlanner(model, config)._policy_candidates(z, draws)
    for sample in range(5):
        at = z
        for t in range(3):
            action = model.policy(at, 0.3 * draws[:, t, sample])
            torch.testing.assert_close(found[t, :, sample], action)
            at = model.next_latent(at, action)


def test_the_return_it_tells_is_the_best_candidates(
    model: WorldModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    values: list[torch.Tensor] = []
    score = MppiPlanner._score

    def watched(self: MppiPlanner, *arguments: Any) -> torch.Tensor:
        values.append(score(self, *arguments))
        return values[-1]

    monkeypatch.setattr(MppiPlanner, "_score", watched)
    told = plan(model, random_obs(2), SMALL).stats["plan_return_after"]
    assert torch.equal(told, values[-1].amax(dim=1))


@pytest.mark.parametrize("carried", [True, False])
def test_a_batch_equals_single_plans(model: WorldModel, carried: bool) -> None:
    obs = random_obs(3)
    carry = torch.full((3, 3, 2), 0.3) if carried else None
    together = plan(model, obs, SMALL, explore=True, carry=carry)
    rows = generators(3)
    for i in range(3):
        one = None if carry is None else carry[i : i + 1]
        alone = plan(model, obs[i : i + 1], SMALL, explore=True, carry=one, generators=[rows[i]])
        torch.testing.assert_close(alone.action, together.action[i : i + 1], atol=1e-5, rtol=0)
        torch.testing.assert_close(alone.carry, together.carry[i : i + 1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("horizon", [1, 2, 3])
def test_a_row_does_not_change_when_another_is_nan(model: WorldModel, horizon: int) -> None:
    obs = random_obs(2)
    before = plan(model, obs, SMALL, horizon=horizon)
    obs[1] = torch.nan
    after = plan(model, obs, SMALL, horizon=horizon)
    assert torch.equal(before.action[0], after.action[0])
    assert before.finite.tolist() == [True, True]
    assert after.finite.tolist() == [True, False]


def test_noise_only_when_exploring(model: WorldModel) -> None:
    """The plan is the same; exploring adds noise of the last round's std to its first action."""
    obs = random_obs(2)
    still = plan(model, obs, SMALL)
    noisy = plan(model, obs, SMALL, explore=True)
    assert torch.equal(still.carry, noisy.carry)
    assert (still.action != noisy.action).all()
    assert still.action.abs().max() <= 1


def test_exploration_noise_grows_with_the_std_floor(model: WorldModel) -> None:
    obs = random_obs(1).expand(200, -1)
    small = tiny_config(num_samples=8, num_elites=8, iterations=1).mppi
    spread = []
    for floor in (0.05, 1.9):
        pair = [
            plan(model, obs, small, std_floor=floor, explore=explore) for explore in (True, False)
        ]
        spread.append((pair[0].action - pair[1].action).std().item())
    assert spread[1] == pytest.approx(1.9, rel=0.1)
    assert spread[0] < 0.9


def test_the_carry_is_shifted_by_one_step() -> None:
    """With momentum 1 the mean is the carry, one step earlier, and zero at the end."""
    config = tiny_config(momentum=1.0, iterations=1).mppi
    carry = torch.tensor([[[0.1], [0.2], [0.3]]])
    result = plan(FakeModel(), torch.zeros(1, 1), config, carry=carry)
    torch.testing.assert_close(result.carry.flatten(), torch.tensor([0.2, 0.3, 0.0]))


def test_without_a_carry_the_mean_begins_at_zero() -> None:
    config = tiny_config(momentum=1.0, iterations=1).mppi
    assert not plan(FakeModel(), torch.zeros(1, 1), config).carry.any()


@pytest.mark.parametrize("num_elites", [8, 33])
def test_the_carry_of_a_plan_that_is_not_finite_does_not_spoil_the_next_one(
    model: WorldModel, num_elites: int
) -> None:
    """With 33 elites all candidates are, also the policy's, which are NaN."""
    config = tiny_config(num_elites=num_elites).mppi
    bad = plan(model, torch.full((1, 5), torch.nan), config)
    assert not bad.finite.item()
    again = plan(model, random_obs(1), config, carry=bad.carry, explore=True)
    assert again.finite.item()
    assert again.carry.isfinite().all()


def test_candidates_that_are_not_finite_are_never_elites(model: WorldModel) -> None:
    """Rewards are NaN for half of the box."""

    class HalfNan(TargetModel):
        def reward(self, z: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
            return torch.where(
                action.sum(-1, keepdim=True) > 0, torch.nan, super().reward(z, action)
            )

    result = plan(HalfNan([-0.5]), torch.zeros(1, 1))
    assert result.finite.item()
    assert result.carry.isfinite().all()
    assert result.action.item() < 0


def test_works_without_policy_candidates() -> None:
    config = tiny_config(mixture_coef=0.0).mppi
    assert plan(FakeModel(), torch.zeros(2, 1), config).finite.all()


def test_policy_candidates_take_part() -> None:
    """Without Gaussian candidates that come near it, only the policy can know the target."""

    class Knows(TargetModel):
        def policy(self, z: torch.Tensor, noise: torch.Tensor | None = None) -> torch.Tensor:
            return self.target.expand(*z.shape[:-1], -1)

    target = [0.31, -0.47, 0.93, 0.11, -0.77, 0.55]
    config = tiny_config(num_samples=16, num_elites=1, iterations=1, mixture_coef=0.1).mppi
    result = plan(Knows(target), torch.zeros(1, 1), config)
    torch.testing.assert_close(result.action, torch.tensor([target]))


def test_elite_scores() -> None:
    """exp(τ (G − max G)), normalised."""
    values = torch.tensor([[2.0, 1.0, -torch.inf], [-torch.inf] * 3])
    scores = elite_scores(values, 0.5)
    ratio = torch.exp(torch.tensor(-0.5))
    first = torch.stack([torch.tensor(1.0), ratio, torch.tensor(0.0)]) / (1 + ratio)
    torch.testing.assert_close(scores, torch.stack([first, torch.full((3,), 1 / 3)]))
    alike = elite_scores(values, 0.0)
    torch.testing.assert_close(alike[0], torch.tensor([0.5, 0.5, 0.0]))


def test_weighted_moments() -> None:
    elites = torch.tensor([0.0, 1.0]).view(1, 1, 2, 1)
    mean, std = weighted_moments(elites, torch.tensor([[0.25, 0.75]]))
    assert mean.item() == 0.75
    assert std.item() == pytest.approx(0.1875**0.5)
    without = torch.cat([elites, torch.full((1, 1, 1, 1), torch.nan)], dim=2)
    assert weighted_moments(without, torch.tensor([[0.25, 0.75, 0.0]])) == (mean, std)


@pytest.mark.parametrize("carried", [True, False])
def test_the_whole_plan_is_the_mean_and_its_return_is_known_on_request(carried: bool) -> None:
    """Reward −‖a − target‖² for three steps of zero latents, value 0."""
    target = torch.tensor([0.6, -0.3])
    carry = torch.full((1, 3, 2), 0.5) if carried else None
    result = plan(TargetModel(target.tolist()), torch.zeros(1, 1), carry=carry, score_means=True)
    assert torch.equal(result.actions, result.carry.transpose(0, 1))
    moved_on = torch.tensor([[0.5, 0.5], [0.5, 0.5], [0.0, 0.0]]) * carried
    assert torch.equal(result.first_guess[:, 0], moved_on)
    discounts = MPPI.discount ** torch.arange(3)
    for name, actions in (("before", moved_on), ("after", result.actions[:, 0])):
        expected = -(discounts * (actions - target).square().sum(dim=1)).sum()
        torch.testing.assert_close(result.stats[f"mean_return_{name}"], expected[None])


def test_asking_for_the_means_returns_changes_no_decision(model: WorldModel) -> None:
    asked, plain = (plan(model, random_obs(2), SMALL, score_means=ask) for ask in (True, False))
    assert torch.equal(asked.action, plain.action)
    assert torch.equal(asked.carry, plain.carry)
    assert plain.stats.keys() == {"plan_return_after"}
