import pytest
import torch

from difftori.learning.novelty import novelty


@pytest.fixture
def obs() -> torch.Tensor:
    return torch.randn(3, 40, 5, generator=torch.Generator().manual_seed(0))


def test_rare_observations_are_novel_and_repeated_ones_are_not(obs: torch.Tensor) -> None:
    obs[0, 7] = 20.0
    obs[1, :14] = obs[1, 0].clone()
    reward = novelty(obs)
    assert reward.shape == (3, 40, 1)
    assert reward.flatten().argmax() == 7
    torch.testing.assert_close(reward[1, :14], torch.zeros(14, 1), atol=1e-2, rtol=0)
    assert (reward[2] > 0).all()


def test_it_is_the_mean_distance_to_the_nearest_twelve(obs: torch.Tensor) -> None:
    scaled = obs / obs.std(dim=(0, 1))
    distances = (scaled[1, 3] - scaled[1]).norm(dim=-1).sort().values[1:13]
    torch.testing.assert_close(novelty(obs)[1, 3, 0], torch.log(1 + distances.mean()))


def test_units_and_constant_entries_do_not_matter(obs: torch.Tensor) -> None:
    other = torch.cat([obs * torch.tensor([1e-3, 1.0, 1e3, 1.0, 1.0]), torch.ones(3, 40, 1)], -1)
    torch.testing.assert_close(novelty(other), novelty(obs))


def test_images_and_small_batches_have_a_novelty_too() -> None:
    images = torch.randint(256, (2, 4, 3, 8, 8), dtype=torch.uint8)
    assert torch.isfinite(novelty(images)).all()
    assert torch.equal(novelty(images[:, :1].expand(2, 4, 3, 8, 8)), torch.zeros(2, 4, 1))
    assert torch.equal(novelty(images[:, :1]), torch.zeros(2, 1, 1))
