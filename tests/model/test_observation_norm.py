import pytest
import torch

from builders import random_obs, tiny_config, tiny_model
from difftori.model.observation_norm import LARGEST, ObservationNorm


def test_mean_and_variance_are_those_of_everything_seen() -> None:
    seen = 3 + 0.2 * random_obs(50)
    norm = ObservationNorm(5)
    for part in seen.split([1, 19, 30]):
        norm.update(part)
    torch.testing.assert_close(norm.mean, seen.mean(dim=0))
    torch.testing.assert_close(norm.variance, seen.var(dim=0, correction=0))
    expected = (seen - seen.mean(dim=0)) / seen.std(dim=0, correction=0)
    torch.testing.assert_close(norm(seen), expected, rtol=1e-4, atol=1e-5)


def test_a_wide_entry_is_only_centred() -> None:
    norm = ObservationNorm(1)
    norm.update(torch.tensor([[-15.0], [25.0]]))
    assert norm(torch.tensor([[8.0]])).item() == 3
    assert norm(torch.tensor([[1000.0]])).item() == pytest.approx(20 * LARGEST)


def test_an_entry_that_never_changes_stays_finite_and_small() -> None:
    norm = ObservationNorm(2)
    norm.update(torch.tensor([[1.0, 7.0], [2.0, 7.0]]))
    assert norm(torch.tensor([[1.5, 7.0]])).abs().max() < 1e-3
    assert norm(torch.tensor([[1.5, 1000.0]])).abs().max() == LARGEST


def test_model_and_target_see_the_same_normalized_observations() -> None:
    model = tiny_model(tiny_config(normalize_observations=True))
    target, obs = model.target_copy(), 100 + random_obs(20)
    action = torch.zeros(20, 2)
    before = [model.encode(obs), *model.q_obs(obs, action)]
    model.observe(obs, torch.zeros(19))
    after = [model.encode(obs), *model.q_obs(obs, action)]
    assert not any(torch.allclose(a, b) for a, b in zip(before, after, strict=True))
    torch.testing.assert_close(target.encode(obs), after[0])
    assert "_norm.mean" in target.state_dict()


def test_without_it_nothing_changes() -> None:
    model, obs = tiny_model(tiny_config()), random_obs(4)
    before = model.encode(obs)
    model.observe(100 + random_obs(20), torch.zeros(19))
    assert torch.equal(model.encode(obs), before)
