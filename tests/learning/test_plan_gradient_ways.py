"""What each mode does with the plan's gradient at the three points of the loop."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from builders import AFTER_SCHEDULES, generators, random_obs, tiny_config, tiny_model, tiny_spec
from difftori.learning.finite import NotFiniteError
from difftori.learning.learner import Learner
from difftori.learning.plan_gradient_ways import OnReplay, PlanGradientWay, plan_gradient_way
from difftori.model.world_model import WorldModel
from difftori.planning.actor import Actor
from difftori.replay.buffer import ReplayBuffer
from difftori.types import Episode, Plan

REPLAY = {"frequency": 10, "sample_update": 6}


def new_way(
    mode: str, model: WorldModel, plan_loss_coef: float = 0.5, **changes: object
) -> PlanGradientWay:
    config = tiny_config(f"mode={mode}", plan_loss_coef=plan_loss_coef, **REPLAY, **changes)
    buffer = ReplayBuffer(
        tiny_spec(),
        capacity=1000,
        horizon=3,
        alpha=0.6,
        beta=0.4,
        storage_device="cpu",
        compute_device="cpu",
        generator=torch.Generator().manual_seed(0),
    )
    random = np.random.default_rng(0)
    shapes = {"obs": (21, 5), "action": (20, 2), "reward": (20,)}
    arrays = {k: random.standard_normal(v).astype(np.float32) for k, v in shapes.items()}
    buffer.add(Episode(**arrays, terminated=np.zeros(20, dtype=bool)))
    return plan_gradient_way(
        config.plan_gradient,
        Actor(model, config),
        Learner(model, config.learner, generator=torch.Generator(), max_nonfinite=3),
        buffer,
        generator=torch.Generator(),
        max_nonfinite=3,
    )


def plan(model: WorldModel, obs: Tensor, way: PlanGradientWay) -> Plan:
    return Actor(model, tiny_config("mode=back_plan")).act(
        obs,
        episode_start_step=AFTER_SCHEDULES,
        update_step=0,
        carry=None,
        explore=False,
        generators=generators(1),
        differentiate=way.differentiates,
    )


def weights(model: WorldModel) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def moved(before: dict[str, Tensor], model: WorldModel) -> set[str]:
    after = model.state_dict()
    return {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize(
    ("mode", "moving_points"),
    [
        ("default", set()),
        ("theseus_forward", set()),
        ("back_plan", {"episode"}),
        ("back_plan_per_step", {"plan"}),
        ("back_plan_replay", {"step"}),
    ],
)
def test_each_mode_learns_at_its_point_of_the_loop(mode: str, moving_points: set[str]) -> None:
    model, obs = tiny_model(tiny_config()), random_obs(1)
    way = new_way(mode, model)
    points = {
        "plan": lambda: way.after_plan(obs, plan(model, obs, way), 6010),
        "step": lambda: way.after_step(6010, 6000, 0),
        "episode": lambda: way.after_episode(6011),
    }
    for name, ask in points.items():
        before = weights(model)
        logged = ask()
        assert bool(moved(before, model)) == (name in moving_points), name
        assert ("total_a_loss" in logged) == (name in moving_points), name


def test_a_dropped_episode_leaves_nothing_to_apply() -> None:
    model, obs = tiny_model(tiny_config()), random_obs(1)
    way = new_way("back_plan", model)
    way.after_plan(obs, plan(model, obs, way), 6010)
    way.discard()
    assert way.after_episode(6011) == {}


def test_plans_of_the_sampling_planner_are_nothing_to_learn_from() -> None:
    model, obs = tiny_model(tiny_config()), random_obs(1)
    for mode in ("back_plan", "back_plan_per_step"):
        way = new_way(mode, model)
        sampled = replace(plan(model, obs, way), differentiable_action=None)
        assert way.after_plan(obs, sampled, 100) == way.after_episode(101) == {}


@pytest.mark.parametrize("mode", ["back_plan", "back_plan_per_step"])
def test_the_loss_has_the_weight_of_its_key(mode: str) -> None:
    model, obs = tiny_model(tiny_config()), random_obs(1)
    once, half = (new_way(mode, model, plan_loss_coef=weight) for weight in (1, 0.5))
    logged = []
    for way in (once, half):
        torch.manual_seed(0)
        start = {name: value.clone() for name, value in model.state_dict().items()}
        now = way.after_plan(obs, plan(model, obs, way), 100)
        logged.append((now | way.after_episode(101))["grad_norm_a"])
        model.load_state_dict(start)
    assert logged[0] > 0
    assert logged[1] == pytest.approx(logged[0] / 2, rel=1e-4)


@pytest.mark.parametrize(("changes", "lr"), [({}, 2e-3), ({"plan_lr": 1e-4}, 1e-4)])
def test_steps_have_the_size_of_the_models_or_their_own(
    changes: dict[str, float], lr: float
) -> None:
    """The largest change of Adam's first step is the step size."""
    model, obs = tiny_model(tiny_config()), random_obs(1)
    way, before = new_way("back_plan_per_step", model, lr=2e-3, **changes), weights(model)
    way.after_plan(obs, plan(model, obs, way), 100)
    change = max((before[n] - value).abs().max() for n, value in model.state_dict().items())
    assert float(change) == pytest.approx(lr, rel=1e-2)


@pytest.mark.parametrize("mode", ["back_plan", "back_plan_per_step", "back_plan_replay"])
def test_without_a_weight_plans_need_no_graph(mode: str) -> None:
    way = new_way(mode, tiny_model(tiny_config()), plan_loss_coef=0)
    assert not way.differentiates
    assert way.state_dict() is None
    assert way.after_step(6010, 6000, 0) == {}


# On replay


def test_is_due_every_so_many_steps_once_plans_are_optimized() -> None:
    way = new_way("back_plan_replay", tiny_model(tiny_config()))
    assert way.after_step(6010, 6000, 0)
    assert way.after_step(6011, 6000, 0) == {}
    assert way.after_step(5990, 5900, 0) == {}


def on_replay(model: WorldModel) -> OnReplay:
    way = new_way("back_plan_replay", model)
    assert isinstance(way, OnReplay)
    return way


def test_moves_the_model_and_neither_policy_nor_observation_critics() -> None:
    model = tiny_model(tiny_config())
    before, way = weights(model), on_replay(model)
    assert way.learn(7, AFTER_SCHEDULES, 0)["replayed_plans_dropped"] == 0
    assert {"_encoder", "_dynamics", "_reward"} <= moved(before, model)
    assert not moved(before, model) & {"_pi", "_Q1_s", "_Q2_s"}


@pytest.mark.parametrize("bad", [[], [2], [0, 3, 5]])
def test_the_loss_is_the_weighted_mean_over_the_finite_plans(
    bad: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever rows are left out, every batch that is planned has the same size."""
    model = tiny_model(tiny_config())
    way, alone = on_replay(model), on_replay(model)
    drawn = alone._buffer.uniform_observations(6)
    good = [row for row in range(6) if row not in bad]
    chosen = alone._plan(drawn[good], AFTER_SCHEDULES, 0).differentiable_action
    losses = alone.gradient.accumulate(drawn[good], chosen, 0.5 / len(good))
    expected = alone.gradient.gradient

    spoiled = drawn.clone()
    spoiled[bad] = torch.nan
    monkeypatch.setattr(way._buffer, "uniform_observations", lambda count: spoiled)
    sizes, gradients = [], []
    act, apply = way._actor.act, way.gradient.apply

    def counted_act(obs: Tensor, **arguments: object) -> Plan:
        sizes.append(len(obs))
        return act(obs, **arguments)

    def seen_apply(step: int) -> dict[str, float]:
        assert step == 7
        gradients.append(way.gradient.gradient)
        return apply(step)

    monkeypatch.setattr(way._actor, "act", counted_act)
    monkeypatch.setattr(way.gradient, "apply", seen_apply)
    logged = way.learn(7, AFTER_SCHEDULES, 0)
    assert sizes == ([6, 6] if bad else [6])
    assert logged["replayed_plans_dropped"] == len(bad)
    torch.testing.assert_close(
        logged["total_a_loss"], 0.5 * float(losses.mean()), rtol=1e-5, atol=1e-6
    )
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[0][name], gradient, rtol=1e-3, atol=1e-6)


def test_a_batch_without_a_finite_plan_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(tiny_config())
    before, way = weights(model), on_replay(model)
    nothing = torch.full((6, 5), torch.nan)
    monkeypatch.setattr(way._buffer, "uniform_observations", lambda count: nothing)
    assert way.learn(7, AFTER_SCHEDULES, 0) == {"replayed_plans_dropped": 6.0}
    assert moved(before, model) == set()
    way.learn(17, AFTER_SCHEDULES, 0)
    with pytest.raises(NotFiniteError, match="3 times in a row: all replayed plans"):
        way.learn(27, AFTER_SCHEDULES, 0)
