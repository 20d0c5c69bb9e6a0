import numpy as np
import torch

from builders import tiny_config, tiny_model, tiny_spec
from difftori.learning.learner import Learner
from difftori.learning.plan_gradient import PlanGradient
from difftori.learning.replayed_plan import ReplayedPlans
from difftori.model.world_model import WorldModel
from difftori.planning.actor import Actor
from difftori.replay import ReplayBuffer
from difftori.types import Episode

CONFIG = tiny_config("mode=back_plan_replay", frequency=10, sample_update=6, plan_loss_coef=0.5)
FULL_HORIZON = 10**9


def replayed_plans(model: WorldModel) -> tuple[ReplayedPlans, PlanGradient]:
    spec = tiny_spec()
    buffer = ReplayBuffer(
        spec,
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
    buffer.add(Episode(**arrays, terminated=np.zeros(20, np.bool_)))
    learner = Learner(model, CONFIG.learner, generator=torch.Generator(), max_nonfinite=3)
    gradient = PlanGradient(model, CONFIG.plan_gradient, max_nonfinite=3)
    plans = ReplayedPlans(
        Actor(model, CONFIG), learner, gradient, buffer, CONFIG.plan_gradient, torch.Generator()
    )
    return plans, gradient


def test_is_due_every_so_many_steps_once_plans_are_optimized() -> None:
    plans, _ = replayed_plans(tiny_model(CONFIG))
    start = CONFIG.actor.theseus_start_step
    assert plans.due(start + 10, start)
    assert not plans.due(start + 11, start)
    assert not plans.due(start - 10, start - 100)


def test_moves_the_model_and_neither_policy_nor_observation_critics() -> None:
    model = tiny_model(CONFIG)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    plans, _ = replayed_plans(model)
    metrics = plans.step(FULL_HORIZON, 0)
    assert metrics["replayed_plans_dropped"] == 0
    moved = {
        n.split(".")[0] for n, t in model.state_dict().items() if not torch.equal(t, before[n])
    }
    assert {"_encoder", "_dynamics", "_reward"} <= moved
    assert not moved & {"_pi", "_Q1_s", "_Q2_s"}


def test_the_loss_is_the_weighted_mean_over_the_drawn_observations() -> None:
    model = tiny_model(CONFIG)
    plans, gradient = replayed_plans(model)
    seen: list[tuple[torch.Tensor, float]] = []
    accumulate = gradient.accumulate

    def spy(obs: torch.Tensor, action: torch.Tensor, weight: float) -> torch.Tensor:
        losses = accumulate(obs, action, weight)
        seen.append((losses, weight))
        return losses

    gradient.accumulate = spy  # type: ignore[method-assign]
    total = plans.step(FULL_HORIZON, 0)["total_a_loss"]
    ((losses, weight),) = seen
    assert len(losses) == 6
    assert weight == 0.5 / 6
    torch.testing.assert_close(total, 0.5 * float(losses.mean()), rtol=1e-5, atol=1e-6)
