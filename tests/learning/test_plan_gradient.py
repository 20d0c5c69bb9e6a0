import copy

import pytest
import torch
from torch import Tensor

from builders import AFTER_SCHEDULES, generators, random_obs, tiny_config, tiny_model
from difftori.config import Config
from difftori.learning.finite import NotFiniteError
from difftori.learning.plan_gradient import PlanGradient
from difftori.model.world_model import WorldModel
from difftori.planning.actor import Actor

TRAINED = {"_encoder", "_dynamics", "_reward", "_Q1", "_Q2"}


def planned_action(model: WorldModel, config: Config, obs: Tensor) -> Tensor:
    plan = Actor(model, config).act(
        obs,
        episode_start_step=AFTER_SCHEDULES,
        update_step=0,
        carry=None,
        explore=False,
        generators=generators(len(obs)),
        differentiate=True,
    )
    assert plan.differentiable_action is not None
    return plan.differentiable_action


def accumulate(plan_gradient: PlanGradient, model: WorldModel, config: Config, seed: int) -> Tensor:
    obs = random_obs(1, seed=seed)
    return plan_gradient.accumulate(obs, planned_action(model, config, obs))


def new(model: WorldModel, config: Config, max_nonfinite: int = 3) -> PlanGradient:
    return PlanGradient(
        model,
        lr=config.plan_gradient.lr,
        max_norm=config.plan_gradient.grad_clip_norm_a,
        max_nonfinite=max_nonfinite,
    )


def learn_and_find_what_moved(model: WorldModel, config: Config) -> set[str]:
    """Networks that one episode's plan gradient changed, by the bits."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    plan_gradient, modality = new(model, config), config.env.modality
    for seed in range(3):
        obs = random_obs(1, modality=modality, seed=seed)
        plan_gradient.accumulate(obs, planned_action(model, config, obs))
    metrics = plan_gradient.apply(0)
    assert metrics["grad_norm_a"] > 0
    assert metrics["share_zero_gradients"] == 0
    after = model.state_dict()
    return {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize(
    ("modality", "backward_mode", "solver", "smaller"),
    [
        ("state", "truncated", "residual", "_Q1"),
        ("state", "unroll", "residual", "_Q2"),
        ("state", "truncated", "published", "_Q2"),
        ("pixels", "truncated", "residual", "_Q2"),
    ],
)
def test_who_learns(modality: str, backward_mode: str, solver: str, smaller: str) -> None:
    """Encoder, dynamics, reward and the latent critic that decides; policy and observation
    critics stay bit for bit."""
    config = tiny_config(
        "mode=back_plan", f"modality={modality}", backward_mode=backward_mode, solver=solver
    )
    model = tiny_model(config)
    getattr(model, smaller)[-1].bias.data -= 10
    moved = learn_and_find_what_moved(model, config)
    assert moved == {"_encoder", "_dynamics", "_reward", smaller}


def test_the_loss_falls_along_the_gradient(model: WorldModel, config: Config) -> None:
    """A small step of plain descent lowers the loss by its norm squared, to first order."""
    obs = random_obs(1)
    plan_gradient = new(model, config)
    before = plan_gradient.accumulate(obs, planned_action(model, config, obs))
    gradient = plan_gradient.gradient
    squared = sum(g.square().sum() for g in gradient.values())
    epsilon = 1e-2 / squared.sqrt()
    for name, parameter in model.named_parameters():
        if name in gradient:
            parameter.data -= epsilon * gradient[name]
    after = new(model, config).accumulate(obs, planned_action(model, config, obs))
    assert after < before


def test_sums_over_steps_and_starts_over(model: WorldModel, config: Config) -> None:
    singles = []
    for seed in range(3):
        one = new(model, config)
        loss = accumulate(one, model, config, seed)
        singles.append((loss.item(), one.gradient))
    together = new(model, config)
    for seed in range(3):
        accumulate(together, model, config, seed)
    for name, value in together.gradient.items():
        expected = sum(gradient[name] for _, gradient in singles)
        torch.testing.assert_close(value, expected, atol=1e-7, rtol=1e-4)
    metrics = together.apply(0)
    assert metrics["total_a_loss"] == pytest.approx(sum(loss for loss, _ in singles), rel=1e-5)
    assert not any(gradient.any() for gradient in together.gradient.values())
    assert together.apply(0) == {}


def test_the_step_is_clipped(model: WorldModel) -> None:
    """Clipped to almost nothing, Adam's epsilon shows and the step shrinks."""
    config = tiny_config("mode=back_plan", grad_clip_norm_a=1e-9)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    plan_gradient = new(model, config)
    accumulate(plan_gradient, model, config, 0)
    plan_gradient.apply(0)
    change = max((before[n] - value).abs().max() for n, value in model.state_dict().items())
    assert 0 < change < 0.2 * config.plan_gradient.lr(0)


def test_plans_at_the_bound_count_as_zero_gradients(model: WorldModel) -> None:
    """A step that leaves the box at once ends where the clamped return is flat."""
    config = tiny_config("mode=back_plan", step_size=1e3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    plan_gradient = new(model, config)
    accumulate(plan_gradient, model, config, 0)
    metrics = plan_gradient.apply(0)
    assert metrics["share_zero_gradients"] == 1
    assert metrics["grad_norm_a"] == 0
    assert all(torch.equal(before[n], value) for n, value in model.state_dict().items())


def test_a_gradient_that_is_not_finite_is_dropped(model: WorldModel, config: Config) -> None:
    clean, spoiled = new(model, config), new(model, config)
    for plan_gradient in (clean, spoiled):
        accumulate(plan_gradient, model, config, 0)
    obs = torch.full((1, 5), torch.nan)
    spoiled.accumulate(obs, planned_action(model, config, obs))
    for name, gradient in clean.gradient.items():
        assert torch.equal(gradient, spoiled.gradient[name])
    metrics = spoiled.apply(0)
    assert metrics["plans_dropped"] == 1
    assert metrics["total_a_loss"] == clean.apply(0)["total_a_loss"]


def test_an_episode_of_dropped_plans_changes_nothing(model: WorldModel, config: Config) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    plan_gradient = new(model, config)
    obs = torch.full((1, 5), torch.nan)
    plan_gradient.accumulate(obs, planned_action(model, config, obs))
    assert plan_gradient.apply(0)["plans_dropped"] == 1
    assert all(torch.equal(before[n], value) for n, value in model.state_dict().items())


def test_a_sum_that_is_not_finite_is_dropped_and_counted(model: WorldModel, config: Config) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    plan_gradient, obs = new(model, config), random_obs(1)
    plan_gradient.accumulate(obs, planned_action(model, config, obs))
    weight = 1.2e19 / float(torch.nn.utils.get_total_norm(plan_gradient.gradient.values()))
    plan_gradient.discard()
    for _ in range(2):
        plan_gradient.accumulate(obs, planned_action(model, config, obs), weight)
    assert plan_gradient.apply(0)["plans_dropped"] == 0
    assert plan_gradient.nonfinite.total == 1
    assert all(torch.equal(before[n], value) for n, value in model.state_dict().items())


def test_stops_after_so_many_in_a_row(model: WorldModel, config: Config) -> None:
    plan_gradient = new(model, config, max_nonfinite=2)
    obs = torch.full((1, 5), torch.nan)
    action = planned_action(model, config, obs)
    plan_gradient.accumulate(obs, action)
    accumulate(plan_gradient, model, config, 0)
    plan_gradient.accumulate(obs, planned_action(model, config, obs))
    with pytest.raises(NotFiniteError, match="plan's gradient was not finite 2 times"):
        plan_gradient.accumulate(obs, planned_action(model, config, obs))


def test_resumes_bit_for_bit_in_the_middle_of_an_episode(config: Config) -> None:
    first_model, second_model = tiny_model(config), tiny_model(config, seed=4)
    first, second = new(first_model, config), new(second_model, config)
    accumulate(first, first_model, config, 0)
    first.apply(0)
    accumulate(first, first_model, config, 1)
    first.nonfinite.seen(finite=False)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    second_model.load_state_dict(first_model.state_dict())
    assert second.nonfinite == first.nonfinite
    results = []
    for plan_gradient, model in ((first, first_model), (second, second_model)):
        accumulate(plan_gradient, model, config, 2)
        results.append(plan_gradient.apply(0))
    assert results[0] == results[1]
    for name, value in first_model.state_dict().items():
        assert torch.equal(value, second_model.state_dict()[name])
