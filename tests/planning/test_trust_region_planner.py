"""The planner around the trust region keeps the promises of the first one."""

from dataclasses import replace

import pytest
import torch

from builders import generators, random_obs, tiny_config, tiny_model, tiny_spec
from difftori.planning.returns import plan_return
from difftori.planning.trust_region_planner import TrustRegionPlanner


def config(**keys: object) -> object:
    many = {"num_candidates": 4, "num_starts": 3, "last_plan_as_start": True}
    return tiny_config("mode=back_plan", optimizer="trust_region", **{**many, **keys})


@pytest.mark.parametrize("mode", ["truncated", "implicit"])
@pytest.mark.parametrize("episodic", [False, True])
def test_plans_learn_and_rows_are_independent(mode: str, episodic: bool) -> None:
    tiny = config(backward_mode=mode)
    model = tiny_model(tiny, replace(tiny_spec(), can_terminate=episodic))
    obs = random_obs(3)
    planner = TrustRegionPlanner(model, tiny.trajectory)
    other = torch.cat([obs[:1], random_obs(2, seed=5)])
    plans = []
    for batch in (obs, other):
        carry = None
        for _ in range(2):
            plan = planner.plan(
                batch,
                horizon=3,
                explore=False,
                generators=generators(3),
                carry=carry,
                differentiate=True,
            )
            carry = plan.carry
        plans.append(plan)
    assert torch.equal(plans[0].action[0], plans[1].action[0])
    assert torch.equal(plans[0].differentiable_action[0], plans[1].differentiable_action[0])
    assert plans[0].finite.all()
    assert plans[0].actions.abs().max() <= 1
    G = plan_return(model, model.encode(obs), plans[0].actions, tiny.trajectory.discount)
    torch.testing.assert_close(plans[0].stats["plan_return_after"], G.squeeze(1))
    assert (plans[0].stats["plan_return_gain"] >= 0).all()
    loss = plans[0].differentiable_action.sum()
    gradients = torch.autograd.grad(loss, model.plan_parameters(), allow_unused=True)
    assert all(g is None or g.isfinite().all() for g in gradients)
    assert sum(float(g.norm()) for g in gradients if g is not None) > 0
    if episodic:
        ends = dict(zip(model.plan_parameters(), gradients, strict=True))
        assert ends[model._termination[0].weight].norm() > 0


@pytest.mark.parametrize("place", ["_dynamics", "_reward", "_Q1", "_pi", "_encoder"])
@pytest.mark.parametrize("mode", ["truncated", "implicit"])
def test_weights_that_are_not_finite_are_a_status(place: str, mode: str) -> None:
    tiny = config(backward_mode=mode)
    model = tiny_model(tiny)
    with torch.no_grad():
        getattr(model, place)[0].weight[0, 0] = torch.nan
    plan = TrustRegionPlanner(model, tiny.trajectory).plan(
        random_obs(2), horizon=3, explore=True, generators=generators(2), differentiate=True
    )
    assert not plan.finite.any()
    assert plan.carry.isfinite().all()


@pytest.mark.parametrize("last_plan_as_start", [False, True])
def test_the_last_plan_is_a_start_only_if_asked_for(last_plan_as_start: bool) -> None:
    """It may be a better one than the policy's rollout, in the model's eyes."""
    tiny = config(last_plan_as_start=last_plan_as_start, num_candidates=0, num_starts=2)
    planner = TrustRegionPlanner(tiny_model(tiny), tiny.trajectory)
    arguments = {"horizon": 3, "explore": False, "generators": generators(2)}
    obs = random_obs(2)
    first = planner.plan(obs, **arguments)
    plans = [
        planner.plan(obs, **arguments, carry=torch.cat([actions, first.carry[:, 6:]], dim=1))
        for actions in (torch.full((2, 6), -0.9), torch.full((2, 6), 0.9))
    ]
    assert torch.equal(plans[0].actions, plans[1].actions) != last_plan_as_start


def test_exploration_noise_follows_the_sampling_planners_schedule() -> None:
    tiny = config(std_schedule="linear(0.5, 0.1, 100)")
    assert tiny.trajectory.exploration_std(0) == 0.5
    assert tiny.trajectory.exploration_std(100) == pytest.approx(0.1)
    assert tiny_config().trajectory.exploration_std(0) == 0.0
    assert config(explore_noise=0.3).trajectory.exploration_std(0) == 0.3


def test_the_action_that_is_executed_has_the_noise_of_its_step() -> None:
    tiny = config(std_schedule="linear(0.5, 0.1, 100)", num_candidates=0)
    planner = TrustRegionPlanner(tiny_model(tiny), tiny.trajectory)
    obs = random_obs(1).expand(500, -1)
    for update_step, std in ((0, 0.5), (100, 0.1)):
        plan = planner.plan(
            obs, horizon=2, explore=True, generators=generators(500), update_step=update_step
        )
        assert (plan.action - plan.actions[0]).std().item() == pytest.approx(std, rel=0.1)


def test_modes_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(ValueError, match="unroll does not go with optimizer=trust_region"):
        config(backward_mode="unroll")
    with pytest.raises(ValueError, match="implicit does not go with optimizer=published"):
        tiny_config(backward_mode="implicit")
    with pytest.raises(ValueError, match="num_starts=1 is the policy's rollout alone"):
        config(num_starts=1)
