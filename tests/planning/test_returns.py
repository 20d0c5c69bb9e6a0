import pytest
import torch
from planning_fakes import FakeModel, MayEnd

from builders import random_obs, tiny_config, tiny_model
from difftori.config import Config
from difftori.model.world_model import WorldModel
from difftori.planning.mppi import MppiPlanner
from difftori.planning.returns import plan_return, policy_rollout, rollout
from difftori.planning.trajectory import TrajectoryPlanner


def random_plan(model: WorldModel, horizon: int = 4, batch: int = 3) -> tuple:
    z = model.encode(random_obs(batch))
    actions = 2 * torch.rand(horizon, batch, 2, generator=torch.Generator().manual_seed(7)) - 1
    return z, actions


def test_known_return() -> None:
    """1 + ½ + ¼ + ⅛·10, with the smaller of two critics."""
    model = FakeModel(reward=1.0, value=10.0)
    G = plan_return(model, torch.zeros(2, 1), torch.zeros(3, 2, 1), discount=0.5)
    assert G.tolist() == [[3.0], [3.0]]


def test_known_return_of_an_episode_that_may_end() -> None:
    """Each step goes on with ½: 1 + ¼ + 1/16 + 10/64, for a discount of ½ too."""
    model = MayEnd(reward=1.0, value=10.0)
    G = plan_return(model, torch.zeros(2, 1), torch.zeros(3, 2, 1), discount=0.5)
    assert G.tolist() == [[1.46875], [1.46875]]


@pytest.mark.parametrize("discount", [0.0, 1.0])
def test_return_at_the_ends_of_the_discount(discount: float) -> None:
    model = FakeModel(reward=1.0, value=10.0)
    G = plan_return(model, torch.zeros(1, 1), torch.zeros(3, 1, 1), discount)
    assert G.item() == (13.0 if discount else 1.0)


def test_both_planners_report_the_same_known_return() -> None:
    config = tiny_config(discount=0.5, min_std=0.0)
    model, obs = FakeModel(reward=1.0, value=10.0), torch.zeros(1, 1)
    generators = [torch.Generator()]
    sampled = MppiPlanner(model, config.mppi).plan(
        obs, horizon=3, std_floor=0.1, carry=None, explore=False, generators=generators
    )
    optimized = TrajectoryPlanner(model, config.trajectory).plan(
        obs, horizon=3, explore=False, generators=generators
    )
    assert sampled.stats["plan_return_after"].item() == 3.0
    assert optimized.stats["plan_return_before"].item() == 3.0
    assert optimized.stats["plan_return_after"].item() == 3.0


def test_return_equals_a_loop_over_time(model: WorldModel) -> None:
    z, actions = random_plan(model)
    G = torch.zeros(3, 1)
    z_t = z
    for t, action in enumerate(actions):
        G += 0.9**t * model.reward(z_t, action)
        z_t = model.next_latent(z_t, action)
    G += 0.9**4 * torch.minimum(*model.q(z_t, model.policy(z_t)))
    torch.testing.assert_close(plan_return(model, z, actions, 0.9), G)


def test_terminal_noise_moves_only_the_terminal_value(model: WorldModel) -> None:
    z, actions = random_plan(model)
    noise = torch.full((3, 2), 0.2)
    difference = plan_return(model, z, actions, 0.9, noise) - plan_return(model, z, actions, 0.9)
    z_H = rollout(model, z, actions)[-1]
    noisy = torch.minimum(*model.q(z_H, model.policy(z_H, noise)))
    mean = torch.minimum(*model.q(z_H, model.policy(z_H)))
    torch.testing.assert_close(difference, 0.9**4 * (noisy - mean), atol=1e-6, rtol=0)
    assert difference.abs().min() > 1e-5


def test_actions_are_scored_as_they_are(model: WorldModel) -> None:
    """Clamping is the caller's."""
    z, actions = random_plan(model)
    far = plan_return(model, z, 3 * actions, 0.9)
    assert not torch.allclose(far, plan_return(model, z, (3 * actions).clamp(-1, 1), 0.9))


def test_policy_rollout_follows_the_policy_along_the_dynamics(model: WorldModel) -> None:
    z = model.encode(random_obs(3))
    noise = 0.1 * torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(3))
    actions = policy_rollout(model, z, 4, noise)
    latents = rollout(model, z, actions)
    for t in range(4):
        torch.testing.assert_close(actions[t], model.policy(latents[t], noise[t]))


def test_the_tiny_model_of_these_tests_is_not_flat(config: Config) -> None:
    model = tiny_model(config)
    z, actions = random_plan(model)
    assert plan_return(model, z, actions, 0.9).std() > 1e-2
