from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from replay_fakes import PIXELS, STATE, NaiveBuffer, make_buffer, pixel_episode, state_episode

from difftori.replay.buffer import ReplayBuffer
from difftori.replay.layout import memory_bytes
from difftori.types import Batch, EnvSpec, Episode

lengths = st.lists(st.integers(1, 12), min_size=1, max_size=12)


def origin(batch: Batch) -> tuple[list[int], list[int]]:
    """Episode number and time at which each sequence of a state batch begins."""
    return batch.obs[:, 0].long().tolist(), batch.obs[:, 1].long().tolist()


def check_sequences(buffer: ReplayBuffer, batch: Batch) -> None:
    """Every part of a state batch belongs to the consecutive steps that its first obs announces."""
    steps = torch.arange(buffer.horizon, dtype=torch.float32)[:, None]
    number, time = batch.obs[:, 0], batch.obs[:, 1]
    assert torch.equal(batch.next_obs[..., 0], number.expand(buffer.horizon, -1))
    assert torch.equal(batch.next_obs[..., 1], time + steps + 1)
    assert torch.equal(batch.action[..., 0], time + steps + 0.5)
    assert torch.equal(batch.reward[..., 0], 100 * number + time + steps)


def test_a_batch_by_hand() -> None:
    buffer = make_buffer(horizon=3)
    buffer.add(state_episode(7, 4))
    batch = buffer.sample(2)
    assert batch.obs.tolist() == [[7, 0]] * 2
    assert batch.next_obs[:, 0].tolist() == [[7, 1], [7, 2], [7, 3]]
    assert batch.action[:, 1].tolist() == [[0.5], [1.5], [2.5]]
    assert batch.reward[:, 1].tolist() == [[700], [701], [702]]
    assert batch.terminated[:, 1].tolist() == [[0], [0], [0]]
    assert batch.weight.tolist() == [1, 1]
    assert batch.index.tolist() == [0, 0]
    assert batch.obs.dtype == batch.reward.dtype == batch.weight.dtype == torch.float32


def test_frames_are_stacked_and_the_first_one_is_repeated_at_the_start() -> None:
    buffer = make_buffer(PIXELS, horizon=2)
    buffer.add(pixel_episode(1, 3))
    buffer.add(pixel_episode(2, 3))
    batch = buffer.sample(50)
    assert batch.obs.dtype == batch.next_obs.dtype == torch.uint8
    assert batch.obs.shape == (50, 9, 2, 2)
    assert batch.next_obs.shape == (2, 50, 9, 2, 2)
    assert set(batch.obs[:, 0, 0, 0].tolist()) == {1, 2}
    for row in range(50):
        assert batch.obs[row, 1::3, 0, 0].tolist() == [0, 0, 0]
        assert batch.next_obs[:, row, 1::3, 0, 0].tolist() == [[0, 0, 1], [0, 1, 2]]
        assert batch.next_obs[:, row, 0::3].unique().tolist() == [int(batch.obs[row, 0, 0, 0])]


@pytest.mark.parametrize("length", [1, 2, 3])
def test_an_episode_no_longer_than_the_horizon_is_never_drawn(length: int) -> None:
    buffer = make_buffer(horizon=3)
    buffer.add(state_episode(0, length))
    assert not buffer.can_sample
    with pytest.raises(ValueError, match="longer than the horizon of 3"):
        buffer.sample(1)
    buffer.add(state_episode(1, 5))
    assert set(zip(*origin(buffer.sample(100)), strict=True)) == {(1, 0), (1, 1)}


@pytest.mark.parametrize("length", [3, 4, 6])
def test_a_terminal_transition_is_the_last_of_a_sequence_and_a_cut_off_one_is_not_drawn(
    length: int,
) -> None:
    buffer = make_buffer(horizon=3)
    buffer.add(state_episode(0, length, terminated=True))
    buffer.add(state_episode(1, length))
    batch = buffer.sample(300)
    check_sequences(buffer, batch)
    starts = set(zip(*origin(batch), strict=True))
    ended, cut_off = ({t for n, t in starts if n == number} for number in (0, 1))
    assert ended == set(range(length - 3 + 1))
    assert cut_off == set(range(length - 3))
    is_last = batch.next_obs[..., 1] == length
    assert torch.equal(batch.terminated[..., 0] == 1, is_last)
    assert not is_last[:2].any()


@settings(max_examples=60, deadline=None)
@given(lengths, st.integers(12, 30), st.integers(1, 4), st.data())
def test_the_buffer_agrees_with_a_list_of_episodes(
    episode_lengths: list[int], capacity: int, horizon: int, data: st.DataObject
) -> None:
    """After any adds and updates: what is stored, what can be drawn, and with which odds."""
    buffer = make_buffer(capacity=capacity, horizon=horizon)
    naive = NaiveBuffer(capacity, capacity + -(-capacity // STATE.episode_length), horizon)
    for number, length in enumerate(episode_lengths):
        buffer.add(state_episode(number, length))
        naive.add(length)
        assert buffer.num_episodes_added == number + 1
        assert buffer.live_episodes == range(naive.first, number + 1)
        assert buffer.num_transitions == naive.transitions <= capacity
        state = buffer.priorities_state()
        assert torch.as_tensor(state["priority"]).tolist() == naive.flat
        assert buffer.can_sample == any(naive.flat)
        if not buffer.can_sample:
            continue
        batch = buffer.sample(8)
        check_sequences(buffer, batch)
        numbers, times = origin(batch)
        odds = [naive.priorities[n - naive.first][t] for n, t in zip(numbers, times, strict=True)]
        assert min(odds) > 0
        probability = np.array(odds) ** 0.6 / sum(p**0.6 for p in naive.flat if p > 0)
        weight = (naive.transitions * probability) ** -0.4
        assert batch.weight.numpy() == pytest.approx(weight / weight.max(), rel=1e-5)
        value = data.draw(st.lists(st.floats(0, 1e4, width=32), min_size=8, max_size=8))
        buffer.update_priorities(batch.index, torch.tensor(value))
        naive.update(numbers, times, value)


@settings(max_examples=30, deadline=None)
@given(lengths, st.booleans())
def test_live_episodes_come_back_as_they_were(episode_lengths: list[int], pixels: bool) -> None:
    make_episode = pixel_episode if pixels else state_episode
    buffer = make_buffer(PIXELS if pixels else STATE, capacity=25)
    for number, length in enumerate(episode_lengths):
        buffer.add(make_episode(number, length))
    for number in buffer.live_episodes:
        expected, found = make_episode(number, episode_lengths[number]), buffer.episode(number)
        for name in (field.name for field in fields(Episode)):
            one, two = getattr(expected, name), getattr(found, name)
            assert one.dtype == two.dtype
            assert np.array_equal(one, two)
    for number in (buffer.live_episodes.start - 1, buffer.live_episodes.stop):
        with pytest.raises(KeyError, match="is not stored"):
            buffer.episode(number)


def test_draws_are_distinct_once_the_buffer_has_wrapped_if_there_are_enough() -> None:
    buffer = make_buffer(capacity=20, horizon=2)
    for number in range(4):
        buffer.add(state_episode(number, 5))
    assert len(buffer.sample(100).index.unique()) == 12
    buffer.add(state_episode(4, 5))
    assert sorted(buffer.sample(12).index.tolist()) == sorted(buffer.sample(12).index.tolist())
    assert len(buffer.sample(12).index.unique()) == 12
    assert len(buffer.sample(13).index) == 13


def test_draws_follow_the_updated_priorities() -> None:
    buffer = make_buffer(capacity=50, horizon=2, alpha=0.6)
    buffer.add(state_episode(0, 6))
    buffer.update_priorities(torch.arange(4), torch.tensor([0.1, 1.0, 10.0, 3.0]))
    odds = (torch.tensor([0.1, 1.0, 10.0, 3.0]) + 1e-6) ** 0.6
    counts = torch.bincount(buffer.sample(20_000).index, minlength=4)
    assert torch.allclose(counts / 20_000, odds / odds.sum(), atol=0.015)


def test_new_transitions_get_the_largest_priority_stored() -> None:
    buffer = make_buffer(capacity=12, horizon=2)
    buffer.add(state_episode(0, 5))
    buffer.update_priorities(torch.tensor([0, 1, 2]), torch.tensor([0.5, 4.0, 0.25]))
    buffer.add(state_episode(1, 4))
    stored = torch.as_tensor(buffer.priorities_state()["priority"]).tolist()
    largest = pytest.approx(4.000001, rel=1e-9)
    assert stored[6:] == [largest, largest, 0, 0, 0]


def test_uniform_observations_are_all_transitions_alike_and_no_last_observation() -> None:
    buffer = make_buffer(capacity=12, horizon=5)
    for number, length in enumerate([5, 1, 6, 3]):
        buffer.add(state_episode(number, length))
    found = buffer.uniform_observations(20_000)
    assert found.shape == (20_000, 2)
    kinds, counts = found.unique(dim=0, return_counts=True)
    expected = [[n, t] for n, length in ((1, 1), (2, 6), (3, 3)) for t in range(length)]
    assert kinds.tolist() == expected
    assert torch.allclose(counts / 20_000, torch.tensor(0.1), atol=0.01)


def test_uniform_observations_from_pixels_are_stacked() -> None:
    buffer = make_buffer(PIXELS, capacity=12)
    buffer.add(pixel_episode(3, 4))
    kinds = buffer.uniform_observations(200)[:, 1::3, 0, 0].unique(dim=0)
    assert kinds.tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 2], [1, 2, 3]]


def test_an_empty_buffer_has_nothing_to_give() -> None:
    buffer = make_buffer()
    assert not buffer.can_sample
    assert buffer.live_episodes == range(0)
    assert buffer.num_transitions == 0
    with pytest.raises(ValueError, match="nothing to sample"):
        buffer.sample(1)
    with pytest.raises(ValueError, match="empty"):
        buffer.uniform_observations(1)


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_an_impossible_priority_is_named_and_nothing_changes(bad: float) -> None:
    buffer = make_buffer()
    buffer.add(state_episode(0, 5))
    with pytest.raises(ValueError, match=f"priority {bad} at slot 1"):
        buffer.update_priorities(torch.tensor([0, 1]), torch.tensor([3.0, bad]))
    assert torch.as_tensor(buffer.priorities_state()["priority"])[:3].tolist() == [1, 1, 1]


@pytest.mark.parametrize("slot", [-1, 3, 5, 6, 24])
def test_a_priority_where_nothing_can_be_drawn_is_refused(slot: int) -> None:
    buffer = make_buffer()
    buffer.add(state_episode(0, 5))
    with pytest.raises(ValueError, match=f"at slot {slot}"):
        buffer.update_priorities(torch.tensor([0, slot]), torch.tensor([3.0, 3.0]))


def test_episodes_that_do_not_fit_are_refused() -> None:
    good = state_episode(0, 4)
    late = pixel_episode(0, 4)
    late.obs[2, 0] += 1
    early = pixel_episode(0, 4)
    early.obs[0, 0] += 1
    endless = state_episode(0, 4)
    endless.reward[2] = np.nan
    parts = vars(good).items()
    cases = [
        (STATE, state_episode(0, 21), "1 to 20 transitions, got 21"),
        (STATE, Episode(**{k: v[:1] if k == "obs" else v[:0] for k, v in parts}), "got 0"),
        (STATE, replace(good, obs=good.obs[1:]), "obs must be float32"),
        (STATE, replace(good, action=good.action.astype(float)), "action must be float32"),
        (STATE, replace(good, terminated=good.reward), "terminated must be bool"),
        (
            STATE,
            replace(good, terminated=np.eye(4, dtype=bool)[1]),
            "terminated at step 1 and has 4",
        ),
        (STATE, endless, r"reward is not finite at \[2\]"),
        (PIXELS, late, "observation 2 does not continue"),
        (PIXELS, early, "must repeat its first frame"),
    ]
    for spec, episode, message in cases:
        buffer = make_buffer(spec)
        with pytest.raises(ValueError, match=message):
            buffer.add(episode)
        assert buffer.num_episodes_added == 0


def test_memory_is_counted_frame_by_frame() -> None:
    pixels = EnvSpec("none", "pixels", (9, 84, 84), 6, 500, 2, frame_stack=3)
    held, bookkeeping = 3 * 84 * 84 + 4 * (6 + 1 + 1), 32
    assert memory_bytes(pixels, 10**6, stored=1000) == 1002 * held + 1_002_000 * bookkeeping


def test_capacity_is_reached_exactly_by_whole_episodes() -> None:
    buffer = make_buffer(capacity=20)
    for number in range(9):
        buffer.add(state_episode(number, 5))
    assert buffer.num_transitions == 20


def test_batches_are_made_on_the_computing_device() -> None:
    """The meta device stands for one that is not the CPU and whose numbers cannot be read."""
    buffer = make_buffer(replace(PIXELS, can_terminate=True), device="meta", horizon=2)
    buffer.add(pixel_episode(0, 5))
    batch = buffer.sample(3)
    parts = [*vars(batch).values(), buffer.uniform_observations(2)]
    assert {part.device.type for part in parts if part is not batch.index} == {"meta"}
    assert batch.index.device.type == "cpu"
    assert batch.next_obs.shape == (2, 3, 9, 2, 2)


class TestEpisodesThatEnd:
    """Where episodes can end by themselves every transition can be drawn, the last ones too."""

    SPEC = replace(STATE, can_terminate=True)

    def filled(self, *lengths: int) -> ReplayBuffer:
        buffer = make_buffer(self.SPEC, capacity=30, horizon=3)
        for number, length in enumerate(lengths):
            buffer.add(state_episode(number, length, terminated=number % 2 == 0))
        return buffer

    def test_every_transition_begins_a_sequence(self) -> None:
        buffer = self.filled(1, 2, 5)
        drawn = set(zip(*origin(buffer.sample(400)), strict=True))
        assert drawn == {(n, t) for n, length in enumerate((1, 2, 5)) for t in range(length)}

    def test_a_sequence_stops_at_its_episodes_end_and_repeats_what_it_saw_there(self) -> None:
        lengths = (1, 2, 5)
        batch = self.filled(*lengths).sample(200)
        assert batch.inside is not None
        for column, (number, start) in enumerate(zip(*origin(batch), strict=True)):
            left = lengths[number] - start
            inside = [float(t < left) for t in range(3)]
            assert batch.inside[:, column, 0].tolist() == inside
            ends = [float(t == left - 1 and number % 2 == 0) for t in range(3)]
            known = batch.terminated[:, column, 0] * batch.inside[:, column, 0]
            assert known.tolist() == ends
            seen = [float(min(start + t + 1, lengths[number])) for t in range(3)]
            assert batch.next_obs[:, column].tolist() == [[number, t] for t in seen]
            rewards = batch.reward[: min(left, 3), column, 0].tolist()
            assert rewards == [100 * number + start + t for t in range(min(left, 3))]

    def test_truncated_is_not_terminated(self) -> None:
        buffer = self.filled(4, 4)
        ended = [buffer.episode(number).terminated.tolist() for number in (0, 1)]
        assert ended == [[False, False, False, True], [False] * 4]

    def test_a_loaded_buffer_goes_on_alike(self) -> None:
        buffer, other = self.filled(1, 3, 2), make_buffer(self.SPEC, capacity=30, horizon=3)
        other.load([buffer.episode(n) for n in buffer.live_episodes], buffer.priorities_state())
        for ours, theirs in zip(
            vars(buffer.sample(20)).values(), vars(other.sample(20)).values(), strict=True
        ):
            assert torch.equal(ours, theirs)
