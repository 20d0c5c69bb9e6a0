import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from difftori.model.augment import PAD, SHIFTS, random_offsets, shift


def images(count: int, size: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 9, size, size), generator=generator).to(dtype)


def sliced(batch: Tensor, offsets: Tensor) -> Tensor:
    """Crops of the replicate-padded images, one by one."""
    size = batch.shape[-1]
    padded = functional.pad(batch.double(), (PAD,) * 4, mode="replicate").to(batch.dtype)
    crops = [
        image[:, dy : dy + size, dx : dx + size]
        for image, (dy, dx) in zip(padded, offsets.tolist(), strict=True)
    ]
    return torch.stack(crops)


ALL_OFFSETS = torch.cartesian_prod(torch.arange(9), torch.arange(9))


@pytest.mark.parametrize("kind", sorted(SHIFTS))
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_every_offset_is_the_slice_of_the_padded_image(kind: str, dtype: torch.dtype) -> None:
    batch = images(81, 12, dtype)
    shifted = SHIFTS[kind](batch, ALL_OFFSETS)
    assert shifted.dtype == dtype
    assert torch.equal(shifted, sliced(batch, ALL_OFFSETS))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_shift_equals_kornia_at_full_size(dtype: torch.dtype) -> None:
    batch = images(4, 84, dtype)
    offsets = random_offsets(4, torch.Generator().manual_seed(1))
    assert torch.equal(SHIFTS["shift"](batch, offsets), SHIFTS["kornia"](batch, offsets))


@settings(max_examples=20, deadline=None)
@given(
    size=st.integers(1, 20),
    offsets=st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=4),
)
def test_any_size_of_image(size: int, offsets: list[tuple[int, int]]) -> None:
    batch = images(len(offsets), size, torch.float32)
    chosen = torch.tensor(offsets)
    assert torch.equal(shift(batch, chosen), sliced(batch, chosen))


@pytest.mark.parametrize("kind", sorted(SHIFTS))
def test_the_middle_offset_is_no_shift_and_the_input_is_left_alone(kind: str) -> None:
    batch = images(2, 84, torch.uint8)
    kept = batch.clone()
    assert torch.equal(SHIFTS[kind](batch, torch.full((2, 2), PAD)), batch)
    SHIFTS[kind](batch, torch.zeros(2, 2, dtype=torch.long))
    assert torch.equal(batch, kept)


def test_offsets_are_uniform_over_0_to_8_and_independent() -> None:
    offsets = random_offsets(20_000, torch.Generator().manual_seed(0))
    for column in offsets.T:
        counts = torch.bincount(column, minlength=9)
        assert len(counts) == 9
        assert (counts / 20_000 - 1 / 9).abs().max() < 0.01
    assert torch.corrcoef(offsets.T.float())[0, 1].abs() < 0.03


def test_offsets_come_from_the_given_generator() -> None:
    first, again = (random_offsets(50, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again)
