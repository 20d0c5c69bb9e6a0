import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import AFTER_SCHEDULES, generators, random_obs, tiny_config, tiny_model
from difftori.config import Config
from difftori.model.world_model import WorldModel
from difftori.planning.actor import Actor
from difftori.types import Plan

MODES = ("default", "theseus_forward", "back_plan", "back_plan_per_step")


def act(actor: Actor, obs: torch.Tensor, **changes: object) -> Plan:
    arguments = {
        "episode_start_step": AFTER_SCHEDULES,
        "update_step": 0,
        "carry": None,
        "explore": False,
        "generators": generators(len(obs)),
    }
    return actor.act(obs, **(arguments | changes))


# Who acts when


@pytest.mark.parametrize(
    ("mode", "before", "after"),
    [
        ("default", "mppi", "mppi"),
        ("theseus_forward", "trajectory", "trajectory"),
        ("back_plan", "mppi", "trajectory"),
        ("back_plan_per_step", "mppi", "trajectory"),
    ],
)
def test_which_planner_acts_when(model: WorldModel, mode: str, before: str, after: str) -> None:
    actor = Actor(model, tiny_config(f"mode={mode}"))
    planners = [actor.planner_at(step) for step in (0, 5999, 6000, 6001)]
    assert planners == [before, before, after, after]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("step", [0, 5999, 6000])
def test_the_named_planner_is_the_one_that_acts(model: WorldModel, mode: str, step: int) -> None:
    """Only the sampling planner carries its mean; only the optimizer counts iterations."""
    actor = Actor(model, tiny_config(f"mode={mode}"))
    plan = act(actor, random_obs(1), episode_start_step=step)
    sampled = actor.planner_at(step) == "mppi"
    assert (plan.carry is not None) == sampled
    assert ("plan_iterations" in plan.stats) == (not sampled)


@pytest.mark.parametrize(
    ("step", "horizon"),
    [(0, 1), (6249, 1), (6250, 2), (12499, 2), (12500, 3), (24999, 4), (25000, 5), (10**7, 5)],
)
def test_horizon_follows_its_schedule_rounded_down(
    model: WorldModel, step: int, horizon: int
) -> None:
    """Linear from 1 to 5 over 25,000 agent steps."""
    assert Actor(model, tiny_config(horizon=5)).horizon_at(step) == horizon


@pytest.mark.parametrize("schedule", [9, 0, "linear(0, 9, 10)"])
def test_horizon_is_never_below_one_nor_above_the_key(model: WorldModel, schedule: object) -> None:
    actor = Actor(model, tiny_config(horizon=3, horizon_schedule=schedule))
    assert {actor.horizon_at(step) for step in range(20)} <= {1, 2, 3}


@pytest.mark.parametrize("mode", ["default", "theseus_forward"])
def test_the_plan_has_the_scheduled_horizon(
    model: WorldModel, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    actor = Actor(model, tiny_config(f"mode={mode}"))
    seen = []
    for planner in (actor._mppi, actor._trajectory):
        original = planner.plan

        def plan(obs: torch.Tensor, *, _original: object = original, **kwargs: object) -> Plan:
            seen.append(kwargs["horizon"])
            return _original(obs, **kwargs)

        monkeypatch.setattr(planner, "plan", plan)
    for step in (0, 12500, 25000):
        act(actor, random_obs(1), episode_start_step=step)
    assert seen == [1, 2, 3]


def test_the_std_floor_follows_the_update_step(
    model: WorldModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    actor = Actor(model, tiny_config("mode=default"))
    seen = []
    original = actor._mppi.plan

    def plan(obs: torch.Tensor, **kwargs: object) -> Plan:
        seen.append(kwargs["std_floor"])
        return original(obs, **kwargs)

    monkeypatch.setattr(actor._mppi, "plan", plan)
    for step in (0, 12500, 25000, 10**6):
        act(actor, random_obs(1), update_step=step)
    assert seen == pytest.approx([0.5, 0.275, 0.05, 0.05])


# What is executed


@pytest.mark.parametrize("mode", ["default", "theseus_forward"])
@pytest.mark.parametrize("clip", [True, False])
def test_clip_actions(model: WorldModel, mode: str, clip: bool) -> None:
    """Long steps, or strong noise, leave the box; clipping is a key."""
    config = tiny_config(
        f"mode={mode}", clip_actions=clip, step_size=0.5, std_schedule=1.5, iterations=1
    )
    plan = act(Actor(model, config), random_obs(20), explore=True)
    assert (plan.action.abs().max() <= 1) == clip
    assert plan.stats["share_at_bound"].max() > 0


def test_clipping_leaves_the_differentiable_action_raw(model: WorldModel) -> None:
    config = tiny_config("mode=theseus_forward", step_size=0.5)
    plan = act(Actor(model, config), random_obs(4), differentiate=True)
    assert plan.differentiable_action.abs().max() > 1
    assert plan.action.abs().max() <= 1


def test_optimized_plans_of_an_evaluation_do_not_depend_on_generators(model: WorldModel) -> None:
    actor, obs = Actor(model, tiny_config("mode=theseus_forward", explore_noise=0.3)), random_obs(2)
    first, other = act(actor, obs), act(actor, obs, generators=generators(2, seed=9))
    assert torch.equal(first.action, other.action)
    noisy = act(actor, obs, explore=True)
    assert not torch.allclose(noisy.action, first.action, atol=1e-3)


@pytest.mark.parametrize("mode", ["default", "theseus_forward"])
def test_acting_leaves_nothing_behind(model: WorldModel, mode: str) -> None:
    """An evaluation in between changes nothing of what follows."""
    config, obs = tiny_config(f"mode={mode}"), random_obs(1)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    actor = Actor(model, config)
    first = act(actor, obs, explore=True)
    act(actor, random_obs(5, seed=3), differentiate=mode == "theseus_forward")
    again = act(actor, obs, explore=True)
    assert torch.equal(first.action, again.action)
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())


def test_random_actions_fill_the_box(model: WorldModel) -> None:
    actor = Actor(model, tiny_config())
    action = actor.act_randomly(generators(500))
    assert action.shape == (500, 2)
    assert action.abs().max() <= 1
    assert action.min() < -0.98
    assert action.max() > 0.98
    assert action.mean().abs() < 0.08
    assert torch.equal(action[3:5], actor.act_randomly(generators(2, seed=3)))


def test_pixels() -> None:
    for mode in ("default", "theseus_forward"):
        config = tiny_config(f"mode={mode}", "modality=pixels", batch_size=4)
        plan = act(Actor(tiny_model(config), config), random_obs(2, modality="pixels"))
        assert plan.finite.all()


# Numbers that are not finite

BOTH = {mode: tiny_config(f"mode={mode}") for mode in ("default", "theseus_forward")}
PUBLISHED = tiny_config("mode=theseus_forward", solver="published")
NETWORKS = ("_encoder", "_dynamics", "_reward", "_pi", "_Q1", "_Q2")


def check_fallback(config: Config, model: WorldModel, obs: torch.Tensor, **changes: object) -> None:
    plan = act(Actor(model, config), obs, **changes)
    assert not plan.finite.any()
    assert plan.action.isfinite().all()
    assert plan.action.abs().max() <= 1


@settings(max_examples=25, deadline=None)
@given(
    mode=st.sampled_from(sorted(BOTH)),
    network=st.sampled_from(NETWORKS),
    entry=st.sampled_from([0, -1]),
    bad=st.sampled_from([torch.nan, torch.inf, -torch.inf]),
    step=st.sampled_from([0, AFTER_SCHEDULES]),
    explore=st.booleans(),
)
def test_weights_that_are_not_finite_never_raise_nor_execute(
    mode: str, network: str, entry: int, bad: float, step: int, explore: bool
) -> None:
    """A last layer's bias reaches every output of its network."""
    config = BOTH[mode]
    model = tiny_model(config)
    list(getattr(model, network).parameters())[-1].data.view(-1)[entry] = bad
    obs = random_obs(2)
    plan = act(
        Actor(model, config),
        obs,
        episode_start_step=step,
        explore=explore,
        differentiate=mode == "theseus_forward",
    )
    assert plan.action.isfinite().all()
    assert plan.action.abs().max() <= 1
    # An infinite bias before tanh, or of one of two critics, may leave the plan finite.
    if bad != bad:
        assert not plan.finite.any()


@pytest.mark.parametrize("mode", sorted(BOTH))
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("differentiate", [True, False])
def test_observations_that_are_not_finite(
    model: WorldModel, mode: str, bad: float, differentiate: bool
) -> None:
    check_fallback(BOTH[mode], model, torch.full((2, 5), bad), differentiate=differentiate)


@pytest.mark.parametrize("differentiate", [True, False])
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.filterwarnings("ignore:There was an error while running the linear optimizer")
def test_the_published_solver_with_a_nan_weight(differentiate: bool, network: str) -> None:
    model = tiny_model(PUBLISHED)
    getattr(model, network)[0].weight.data[0, 0] = torch.nan
    check_fallback(PUBLISHED, model, random_obs(1), differentiate=differentiate)


@settings(max_examples=20, deadline=None)
@given(
    mode=st.sampled_from(sorted(BOTH)),
    scale=st.sampled_from([1e-12, 1e-3, 1.0, 1e3, 1e12, 1e30]),
    batch=st.integers(1, 8),
    horizon=st.integers(1, 10),
    damping=st.sampled_from([0.0, 1e-3, 1.0]),
    seed=st.integers(0, 3),
)
def test_any_scale_of_rewards_gives_an_action_in_the_box(
    mode: str, scale: float, batch: int, horizon: int, damping: float, seed: int
) -> None:
    config = tiny_config(f"mode={mode}", horizon=horizon, horizon_schedule=horizon, damping=damping)
    model = tiny_model(config, seed=seed)
    for network in (model._reward, model._Q1, model._Q2):
        for parameter in network[-1].parameters():
            parameter.data *= scale
    plan = act(Actor(model, config), random_obs(batch, seed=seed), explore=True)
    assert plan.action.shape == (batch, 2)
    assert plan.action.isfinite().all()
    assert plan.action.abs().max() <= 1


@pytest.mark.parametrize("mode", sorted(BOTH))
def test_a_zero_model_gives_a_plan(mode: str) -> None:
    """As at the start of a run: every return and every gradient is zero."""
    config = tiny_config(f"mode={mode}", damping=0.0)
    model = tiny_model(config)
    for network in (model._reward, model._Q1, model._Q2):
        for parameter in network[-1].parameters():
            parameter.data.zero_()
    plan = act(Actor(model, config), random_obs(2))
    assert plan.finite.all()


# Optimism


@pytest.mark.parametrize("optimizer", ["published", "trust_region"])
@pytest.mark.parametrize("mode", ["default", "theseus_forward"])
def test_a_plan_is_optimistic_about_its_end_only_when_exploring(
    model: WorldModel, mode: str, optimizer: str
) -> None:
    words = {"optimizer": optimizer, "explore_noise": 0, "first_guess_noise": "never"}
    plain = Actor(model, tiny_config(f"mode={mode}", **words))
    optimistic = Actor(model, tiny_config(f"mode={mode}", explore_spread=2.0, **words))
    for explore in (False, True):
        returns = [
            act(actor, random_obs(3), explore=explore).stats["plan_return_after"]
            for actor in (plain, optimistic)
        ]
        assert torch.equal(*returns) != explore
    assert (returns[1] > returns[0]).all()


def test_pessimism_holds_for_every_plan(model: WorldModel) -> None:
    config = tiny_config("mode=theseus_forward", optimizer="trust_region", plan_spread=-0.5)
    plain = Actor(model, tiny_config("mode=theseus_forward", optimizer="trust_region"))
    lower = act(Actor(model, config), random_obs(3)).stats["plan_return_before"]
    assert (lower < act(plain, random_obs(3)).stats["plan_return_before"]).all()
