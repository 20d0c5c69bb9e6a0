import pytest
import torch
from planning_fakes import LinearModel, TargetModel

from builders import generators, random_obs, tiny_config, tiny_model
from difftori.config import TrajectoryConfig
from difftori.model.world_model import WorldModel
from difftori.planning.returns import plan_return
from difftori.planning.trajectory import TrajectoryPlanner
from difftori.types import Plan

STEADY = {"rel_err_tolerance": 0.0, "max_iterations": 80, "step_size": 1e-4, "damping": 0.5}
"""with c = 1000, a quadratic's plan nears its optimum by a third in each iteration"""


def plan(model: WorldModel, config: TrajectoryConfig, obs: torch.Tensor, **changes: object) -> Plan:
    arguments = {"horizon": 3, "explore": False, "generators": generators(len(obs))}
    return TrajectoryPlanner(model, config).plan(obs, **(arguments | changes))


@pytest.mark.parametrize("solver", ["residual", "published"])
def test_finds_the_best_constant_action(solver: str) -> None:
    config = tiny_config(**STEADY, solver=solver).trajectory
    result = plan(TargetModel([0.6, -0.3]), config, torch.zeros(2, 1))
    torch.testing.assert_close(result.action, torch.tensor([[0.6, -0.3]] * 2), atol=5e-3, rtol=0)
    assert result.finite.all()


def test_finds_the_best_plan_of_a_linear_model() -> None:
    z = torch.tensor([[0.6], [-0.4]], dtype=torch.float64)
    config = tiny_config(**(STEADY | {"max_iterations": 400})).trajectory
    result = plan(LinearModel(), config, z)
    torch.testing.assert_close(result.action, -z, atol=5e-3, rtol=0)
    assert result.stats["plan_return_after"].abs().max() < 1e-3
    assert (result.stats["plan_return_before"] < -0.1).all()


def test_a_batch_equals_single_plans(model: WorldModel) -> None:
    config, obs = tiny_config(min_std=0.2, explore_noise=0.1).trajectory, random_obs(4)
    together = plan(model, config, obs, explore=True)
    rows = generators(4)
    for i in range(4):
        alone = plan(model, config, obs[i : i + 1], explore=True, generators=[rows[i]])
        torch.testing.assert_close(alone.action, together.action[i : i + 1], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("when", "explore", "noisy"),
    [
        ("explore", True, True),
        ("explore", False, False),
        ("always", True, True),
        ("always", False, True),
        ("never", True, False),
        ("never", False, False),
    ],
)
def test_noise_of_the_first_guess(model: WorldModel, when: str, explore: bool, noisy: bool) -> None:
    """Seen in the return of the first guess."""
    config = tiny_config(first_guess_noise=when).trajectory
    obs = random_obs(2)
    before = [
        plan(model, config, obs, explore=explore, generators=generators(2, seed)).stats[
            "plan_return_before"
        ]
        for seed in (0, 10)
    ]
    assert torch.equal(*before) == (not noisy)


@pytest.mark.parametrize("explore", [True, False])
def test_exploration_noise_is_added_to_the_executed_action_only(
    model: WorldModel, explore: bool
) -> None:
    obs = random_obs(200)
    plans = [
        plan(
            model,
            tiny_config(explore_noise=noise, first_guess_noise="never").trajectory,
            obs,
            explore=explore,
            differentiate=True,
        )
        for noise in (0.0, 0.2)
    ]
    assert torch.equal(plans[0].differentiable_action, plans[1].differentiable_action)
    added = (plans[1].action - plans[0].action).std().item()
    assert added == (pytest.approx(0.2, rel=0.15) if explore else 0.0)


def test_exploration_noise_is_not_hidden_where_the_plan_lies_outside_the_box() -> None:
    config = tiny_config(**(STEADY | {"step_size": 1e-2}), explore_noise=0.2).trajectory
    result = plan(TargetModel([3.0, -3.0]), config, torch.zeros(500, 1), explore=True)
    assert result.actions.abs().min() > 1
    executed = result.action.clamp(-1, 1)
    assert 0.4 < executed.abs().eq(1).float().mean() < 0.6


def test_the_executed_action_is_detached_and_the_differentiable_one_is_not(
    model: WorldModel,
) -> None:
    result = plan(model, tiny_config().trajectory, random_obs(2), differentiate=True)
    assert not result.action.requires_grad
    assert result.differentiable_action.requires_grad
    assert not any(value.requires_grad for value in result.stats.values())


def test_the_best_iterate_is_executed_and_the_last_is_differentiated() -> None:
    """A step too long swings across the optimum further each time."""
    config = tiny_config(step_size=1e-3, damping=0.5, max_iterations=3, rel_err_tolerance=0.0)
    result = plan(TargetModel([0.01]), config.trajectory, torch.zeros(1, 1), differentiate=True)
    assert result.action.item() == 0.0
    assert (result.differentiable_action - 0.01).abs() > 0.02


def test_without_differentiate_there_is_no_graph_and_the_same_plan(model: WorldModel) -> None:
    config, obs = tiny_config().trajectory, random_obs(2)
    plain, differentiated = (
        plan(model, config, obs, differentiate=differentiate) for differentiate in (False, True)
    )
    assert plain.differentiable_action is None
    torch.testing.assert_close(plain.action, differentiated.action, atol=1e-6, rtol=0)


def test_plans_improve_the_policys_return() -> None:
    config = tiny_config()
    for seed in range(3):
        model = tiny_model(config, seed=seed)
        stats = plan(model, config.trajectory, random_obs(4)).stats
        assert (stats["plan_return_after"] > stats["plan_return_before"]).all()
        assert (stats["plan_iterations"] > 0).all()


@pytest.mark.parametrize("solver", ["residual", "published"])
def test_the_whole_plan_and_its_first_guess_come_with_it(model: WorldModel, solver: str) -> None:
    config, obs = tiny_config(solver=solver).trajectory, random_obs(2)
    result = plan(model, config, obs, differentiate=True)
    assert torch.equal(result.actions[0], result.action)
    assert not result.actions.requires_grad
    assert not result.first_guess.requires_grad
    z = model.encode(obs)
    for name, actions in (("before", result.first_guess), ("after", result.actions)):
        expected = plan_return(model, z, actions.clamp(-1, 1), config.discount).squeeze(1)
        stat = result.stats[f"plan_return_{name}"]
        torch.testing.assert_close(stat, expected.detach(), atol=1e-3, rtol=0)
