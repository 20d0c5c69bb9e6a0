import pytest
import torch

from builders import random_obs, tiny_config, tiny_model
from difftori.model.reward_norm import RewardNorm

LARGE = torch.tensor([[3.0], [-5.0], [8.0], [2.0], [4.0], [-8.0]])


def test_rewards_are_divided_by_the_root_mean_square_of_everything_seen() -> None:
    norm = RewardNorm()
    for part in LARGE.split([1, 3, 2]):
        norm.update(part[:, 0])
    torch.testing.assert_close(norm(LARGE), LARGE / LARGE.square().mean().sqrt())


def test_small_rewards_and_those_before_the_first_episode_pass_as_they_are() -> None:
    norm, rare = RewardNorm(), torch.tensor([[0.0]] * 99 + [[1.0]])
    assert torch.equal(norm(LARGE), LARGE)
    norm.update(rare[:, 0])
    assert torch.equal(norm(rare), rare)


def test_the_largest_rewards_that_an_environment_may_give_stay_finite() -> None:
    norm = RewardNorm()
    norm.update(LARGE[:, 0])
    norm.update(torch.full((1000,), 9e17))
    assert norm(LARGE).isfinite().all()
    assert norm(torch.tensor([[9e17]])).item() == pytest.approx(1, rel=0.01)


def test_model_and_target_count_rewards_alike_and_save_it() -> None:
    model = tiny_model(tiny_config(normalize_rewards=True))
    target = model.target_copy()
    model.observe(random_obs(7), LARGE[:, 0])
    torch.testing.assert_close(
        target.normalized_reward(LARGE).square().mean().sqrt(), torch.ones(())
    )
    assert "_reward_norm.mean_square" in model.state_dict()


def test_without_it_rewards_pass_as_they_are() -> None:
    model = tiny_model(tiny_config())
    model.observe(random_obs(7), LARGE[:, 0])
    assert torch.equal(model.normalized_reward(LARGE), LARGE)
