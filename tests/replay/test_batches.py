import io
import threading
from typing import Any

import pytest
import torch
from replay_fakes import make_buffer, state_episode

from difftori.replay.batches import Batches
from difftori.replay.buffer import ReplayBuffer
from difftori.types import Batch

CPU = torch.device("cpu")


def filled() -> ReplayBuffer:
    buffer = make_buffer(capacity=40)
    for number in range(4):
        buffer.add(state_episode(number, 8))
    return buffer


def learn(batches: Batches, count: int, then_more: bool = False) -> list[torch.Tensor]:
    """Where the sequences of ``count`` batches begin; each update changes priorities a lot."""
    drawn = []
    for left in reversed(range(count)):
        batch = batches.next(more=left > 0 or then_more)
        batches.update_priorities(batch.index, batch.index.double() ** 3)
        drawn.append(batch.index)
    return drawn


def test_without_looking_ahead_batches_are_the_buffers() -> None:
    ours, theirs = learn(Batches(filled(), 4, CPU, ahead=False), 5), []
    buffer = filled()
    for _ in range(5):
        theirs.append(buffer.sample(4).index)
        buffer.update_priorities(theirs[-1], theirs[-1].double() ** 3)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_a_batch_ahead_is_drawn_before_the_updates_priorities() -> None:
    ours, buffer = learn(Batches(filled(), 4, CPU, ahead=True), 3), filled()
    first, second = buffer.draw(4)[0], buffer.draw(4)[0]
    buffer.update_priorities(first, first.double() ** 3)
    third = buffer.draw(4)[0]
    expected = [first, second, third]
    assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))


def test_nothing_is_drawn_ahead_of_an_episode() -> None:
    batches = Batches(filled(), 4, CPU, ahead=True)
    learn(batches, 3)
    assert batches.state_dict() is None


@pytest.mark.parametrize("ahead", [True, False])
def test_a_reloaded_one_goes_on_with_the_same_batches(ahead: bool) -> None:
    buffer = filled()
    batches = Batches(buffer, 4, CPU, ahead=ahead)
    learn(batches, 3, then_more=True)
    file = io.BytesIO()
    state: dict[str, Any] = {"batches": batches.state_dict(), "buffer": buffer.priorities_state()}
    torch.save(state | {"random": buffer._generator.get_state()}, file)
    expected = learn(batches, 3)

    file.seek(0)
    state = torch.load(file)
    fresh = make_buffer(capacity=40, seed=9)
    fresh.load((buffer.episode(number) for number in buffer.live_episodes), state["buffer"])
    fresh._generator.set_state(state["random"])
    resumed = Batches(fresh, 4, CPU, ahead=ahead)
    resumed.load_state_dict(state["batches"])
    assert all(torch.equal(a, b) for a, b in zip(learn(resumed, 3), expected, strict=True))


def test_an_error_in_the_thread_reaches_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = filled()
    gather = buffer.gather

    def gather_here_only(*drawn: torch.Tensor) -> Batch:
        if threading.current_thread() is threading.main_thread():
            return gather(*drawn)
        raise MemoryError("no page can be locked")

    monkeypatch.setattr(buffer, "gather", gather_here_only)
    batches = Batches(buffer, 4, CPU, ahead=True)
    batches.next(more=True)
    with pytest.raises(MemoryError, match="no page"):
        batches.next(more=False)
