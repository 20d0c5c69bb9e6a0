"""Prioritized replay of whole episodes."""

from difftori.replay.batches import Batches
from difftori.replay.buffer import ReplayBuffer
from difftori.replay.layout import memory_bytes, newest_frames, slot_bytes, stack_frames
from difftori.replay.priorities import PriorityTree

__all__ = [
    "Batches",
    "PriorityTree",
    "ReplayBuffer",
    "memory_bytes",
    "newest_frames",
    "slot_bytes",
    "stack_frames",
]
