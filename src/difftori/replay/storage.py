"""The memory of a replay buffer: a ring of rows that grows as it fills."""

import numpy as np
import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from difftori.devices import upload

FIRST_SEGMENT_BYTES = 64 * 1024**2
LARGEST_SEGMENT_BYTES = 2 * 1024**3


class RowStore:
    """A ring of ``rows`` rows of one shape and dtype on one device, which grows as it fills.

    The memory comes in segments: 64 MiB first, then each as large as all before it, up to 2 GiB.
    A graphics card takes what it is asked for at once, and an operating system may refuse a single
    request beyond its memory, so the whole ring is not asked for up front; growing by copying would
    need the old and the new ring at the same time. Few segments keep the gathering fast.

    ``pin``: gather into page-locked memory, for rows that go from the CPU to a graphics card. It
    comes from a cache that waits for pending copies, so it costs no new pages at every batch.
    """

    def __init__(
        self,
        rows: int,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device,
        first_bytes: int = FIRST_SEGMENT_BYTES,
        pin: bool = False,
    ) -> None:
        self.rows = rows
        self.shape = shape
        self.device = device
        self._dtype = dtype
        self._pin = pin
        row_bytes = max(1, int(np.prod(shape)) * dtype.itemsize)
        self._first_rows = max(1, first_bytes // row_bytes)
        self._largest_rows = max(1, LARGEST_SEGMENT_BYTES // row_bytes)
        self._segments: list[Tensor] = []
        self._ends: list[int] = []

    def write(self, slot: int, rows: Shaped[Tensor, "n ..."]) -> None:
        """Write ``rows [n, *shape]`` from slot ``slot`` on, going round at the end of the ring."""
        done = 0
        while done < len(rows):
            at = (slot + done) % self.rows
            segment, begin, end = self._segment_at(at)
            count = min(len(rows) - done, end - at)
            segment[at - begin : at - begin + count].copy_(rows[done : done + count])
            done += count

    def gather(self, slots: Int[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        """``[*slots.shape, *shape]`` on the store's device; ``slots`` on the CPU, all written."""
        flat = slots.reshape(-1)
        shape = (len(flat), *self.shape)
        found = torch.empty(shape, dtype=self._dtype, device=self.device, pin_memory=self._pin)
        if len(self._segments) == 1:
            torch.index_select(self._segments[0], 0, upload(flat, self.device), out=found)
        else:
            segment_of = torch.bucketize(flat, torch.tensor(self._ends), right=True)
            for number, segment in enumerate(self._segments):
                position = (segment_of == number).nonzero()[:, 0]
                local = flat[position] - (self._ends[number] - len(segment))
                rows = segment.index_select(0, upload(local, self.device))
                found.index_copy_(0, upload(position, self.device), rows)
        return found.reshape(*slots.shape, *self.shape)

    def _segment_at(self, slot: int) -> tuple[Tensor, int, int]:
        """The segment that holds ``slot``, made if need be, and the slots it begins and ends at."""
        while not self._ends or self._ends[-1] <= slot:
            allocated = self._ends[-1] if self._ends else 0
            count = max(allocated, self._first_rows)
            count = min(count, self._largest_rows, self.rows - allocated)
            empty = torch.empty(count, *self.shape, dtype=self._dtype, device=self.device)
            self._segments.append(empty)
            self._ends.append(allocated + count)
        number = next(k for k, end in enumerate(self._ends) if slot < end)
        segment, end = self._segments[number], self._ends[number]
        return segment, end - len(segment), end
