"""Small episodes whose numbers tell where they come from, and a naive model of the buffer."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from difftori.replay.buffer import ReplayBuffer
from difftori.types import EnvSpec, Episode

STATE = EnvSpec("none", "state", (2,), action_dim=1, episode_length=5, action_repeat=1)
PIXELS = EnvSpec(
    "none", "pixels", (9, 2, 2), action_dim=1, episode_length=5, action_repeat=1, frame_stack=3
)


def state_episode(number: int, length: int, *, terminated: bool = False) -> Episode:
    """Observation t is [number, t]; action t is [t + 1/2]; reward t is 100 number + t.

    It ended for good if ``terminated``, and was cut off if not.
    """
    time = np.arange(length + 1, dtype=np.float32)
    obs = np.stack([np.full_like(time, number), time], axis=1)
    action = (time[:-1, None] + 0.5).astype(np.float32)
    ends = np.zeros(length, dtype=bool)
    ends[-1] = terminated
    return Episode(obs, action, (100 * number + time[:-1]).astype(np.float32), ends)


def pixel_episode(number: int, length: int) -> Episode:
    """Frame t is [number, t, 0] in every pixel; the stack repeats frame 0 before the start."""
    frames = np.zeros((length + 1, 3, 2, 2), dtype=np.uint8)
    frames[:, 0] = number
    frames[:, 1] = np.arange(length + 1)[:, None, None]
    late = np.arange(length + 1)
    obs = np.concatenate([frames[np.maximum(late - k, 0)] for k in (2, 1, 0)], axis=1)
    plain = state_episode(number, length)
    return replace(plain, obs=obs)


def make_buffer(
    spec: EnvSpec = STATE,
    *,
    capacity: int = 20,
    horizon: int = 2,
    alpha: float = 0.6,
    beta: float = 0.4,
    device: str = "cpu",
    seed: int = 0,
) -> ReplayBuffer:
    return ReplayBuffer(
        spec,
        capacity=capacity,
        horizon=horizon,
        alpha=alpha,
        beta=beta,
        storage_device=device,
        compute_device=device,
        generator=torch.Generator().manual_seed(seed),
    )


class NaiveBuffer:
    """The same contents by lists: which episodes live, and the priority of every slot of them."""

    def __init__(self, capacity: int, slots: int, horizon: int) -> None:
        self.capacity, self.slots, self.horizon = capacity, slots, horizon
        self.first = 0
        self.priorities: list[list[float]] = []

    def add(self, length: int) -> None:
        largest = max((p for episode in self.priorities for p in episode), default=0.0) or 1.0
        while self.priorities and (
            sum(len(e) - 1 for e in self.priorities) + length > self.capacity
            or sum(len(e) for e in self.priorities) + length + 1 > self.slots
        ):
            self.priorities.pop(0)
            self.first += 1
        drawable = max(0, length - self.horizon)
        self.priorities.append([largest] * drawable + [0.0] * (length + 1 - drawable))

    @property
    def flat(self) -> list[float]:
        return [p for episode in self.priorities for p in episode]

    @property
    def transitions(self) -> int:
        return sum(len(e) - 1 for e in self.priorities)

    def update(self, numbers: Sequence[int], times: Sequence[int], values: Sequence[float]) -> None:
        for number, time, value in zip(numbers, times, values, strict=True):
            self.priorities[number - self.first][time] = value + 1e-6
