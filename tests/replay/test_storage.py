import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from difftori.replay.layout import frame_shape, newest_frames, stack_frames
from difftori.replay.storage import RowStore


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(1, 8), st.lists(st.integers(1, 25), max_size=8))
def test_a_ring_in_segments_is_an_array(rows: int, first_rows: int, writes: list[int]) -> None:
    store = RowStore(rows, (2,), torch.float32, torch.device("cpu"), first_bytes=8 * first_rows)
    plain = torch.full((rows, 2), -1.0)
    slot, value = 0, 0
    for count in writes:
        count = min(count, rows)
        data = torch.arange(value, value + 2 * count, dtype=torch.float32).reshape(count, 2)
        store.write(slot, data)
        plain[(slot + torch.arange(count)) % rows] = data
        slot, value = (slot + count) % rows, value + 2 * count
        written = (plain[:, 0] >= 0).nonzero()[:, 0]
        index = written[torch.randperm(len(written))].expand(3, -1)
        assert torch.equal(store.gather(index), plain[index])


def test_memory_grows_with_what_is_written() -> None:
    store = RowStore(1000, (3,), torch.uint8, torch.device("cpu"), first_bytes=30)
    sizes = []
    for slot in range(0, 1000, 5):
        store.write(slot, torch.zeros(5, 3, dtype=torch.uint8))
        sizes.append(sum(len(segment) for segment in store._segments))
        assert sizes[-1] <= max(10, 2 * (slot + 5))
    assert sizes[-1] == 1000
    assert len(store._segments) == 8


def test_frames_come_apart_and_together() -> None:
    frames = np.random.default_rng(0).integers(0, 255, (6, 3, 2, 2), dtype=np.uint8)
    obs = np.stack([np.concatenate([frames[max(t - k, 0)] for k in (2, 1, 0)]) for t in range(6)])
    assert np.array_equal(newest_frames(obs, 3), frames)
    padded = torch.from_numpy(np.concatenate([frames[:1], frames[:1], frames]))
    assert np.array_equal(stack_frames(padded[:, None], 3)[:, 0].numpy(), obs)


def test_a_shape_that_is_no_stack_is_refused() -> None:
    assert frame_shape((9, 84, 84), 3) == (3, 84, 84)
    with pytest.raises(ValueError, match="no stack of 3 frames"):
        frame_shape((8, 84, 84), 3)
