import io
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from replay_fakes import PIXELS, STATE, make_buffer, pixel_episode, state_episode

from difftori.replay.buffer import ReplayBuffer
from difftori.types import Episode

lengths = st.lists(st.integers(1, 12), max_size=14)


def drive(
    buffer: ReplayBuffer, episodes: list[int], make: Callable[[int, int], Episode]
) -> list[torch.Tensor]:
    """Add, sample and update; everything that came out on the way."""
    out = []
    for length in episodes:
        buffer.add(make(buffer.num_episodes_added, length))
        drawable = int((torch.as_tensor(buffer.priorities_state()["priority"]) > 0).sum())
        if drawable:
            batch = buffer.sample(min(4, drawable))
            buffer.update_priorities(batch.index, batch.reward.sum((0, 2)) / 37)
            out += [part for part in vars(batch).values() if part is not None]
            out.append(buffer.uniform_observations(3))
    return out


def reload(buffer: ReplayBuffer, fresh: ReplayBuffer) -> None:
    """Through a file, as a checkpoint would."""
    file = io.BytesIO()
    state = {"buffer": buffer.priorities_state(), "random": buffer._generator.get_state()}
    torch.save(state, file)
    file.seek(0)
    state = torch.load(file)
    fresh.load((buffer.episode(number) for number in buffer.live_episodes), state["buffer"])
    fresh._generator.set_state(state["random"])


@settings(max_examples=30, deadline=None)
@given(lengths, lengths, st.booleans())
def test_a_reloaded_buffer_goes_on_bit_for_bit(
    before: list[int], after: list[int], pixels: bool
) -> None:
    spec, make = (PIXELS, pixel_episode) if pixels else (STATE, state_episode)
    saved = make_buffer(spec, capacity=23)
    drive(saved, before, make)
    loaded = make_buffer(spec, capacity=23, seed=99)
    reload(saved, loaded)
    for _ in range(2):
        one, two = saved.priorities_state(), loaded.priorities_state()
        assert one.keys() == two.keys()
        assert all(torch.equal(torch.as_tensor(one[k]), torch.as_tensor(two[k])) for k in one)
        assert saved.live_episodes == loaded.live_episodes
        assert saved.num_transitions == loaded.num_transitions
        for first, second in zip(
            drive(saved, after, make), drive(loaded, after, make), strict=True
        ):
            assert torch.equal(first, second)


def test_what_does_not_fit_is_refused() -> None:
    saved = make_buffer()
    for number in range(3):
        saved.add(state_episode(number, 5))
    saved.update_priorities(torch.tensor([0]), torch.tensor([3.0]))
    episodes, state = [saved.episode(n) for n in saved.live_episodes], saved.priorities_state()
    with pytest.raises(ValueError, match="new buffer only"):
        saved.load(episodes, state)
    with pytest.raises(ValueError, match=r"'horizon': 2.*'horizon': 3"):
        make_buffer(horizon=3).load(episodes, state)
    with pytest.raises(ValueError, match=r"'slots': 24.*'slots': 60"):
        make_buffer(capacity=50).load(episodes, state)
    with pytest.raises(ValueError, match=r"alpha=0\.5"):
        make_buffer(alpha=0.5).load(episodes, state)
    with pytest.raises(ValueError, match=r"are \(2, 12\), and the saved state has \(3, 18\)"):
        make_buffer().load(episodes[:2], state)
