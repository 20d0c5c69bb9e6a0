"""Batches for updates; on a GPU the next one is fetched while an update uses the one before."""

from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext

import torch
from jaxtyping import Float, Int
from torch import Tensor

from difftori.compiling.arguments import tensors_in
from difftori.replay.buffer import ReplayBuffer
from difftori.types import Batch


class Batches:
    """Draws batches from a buffer and returns what updates say of their priorities.

    ``ahead``: a thread of its own draws a batch, gathers it and sends it on a CUDA stream of its
    own, while the update before is computed. That batch does not know the update's priorities yet.
    """

    def __init__(
        self, buffer: ReplayBuffer, batch_size: int, device: torch.device, *, ahead: bool
    ) -> None:
        self._buffer = buffer
        self._batch_size = batch_size
        self._on_gpu = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if ahead and self._on_gpu else None
        self._thread = ThreadPoolExecutor(1, "batches") if ahead else None
        self._coming: Future[Batch] | None = None

    def next(self, *, more: bool) -> Batch:
        """A batch; ``more``: another one will be asked for before an episode is added."""
        batch = self._coming.result() if self._coming else self._fetch()
        self._coming = None
        if self._stream is not None:
            current = torch.cuda.current_stream()
            current.wait_stream(self._stream)
            for tensor in tensors_in([batch]):
                if tensor.is_cuda:  # its memory is not free before this stream has read it
                    tensor.record_stream(current)
        if more and self._thread is not None:
            self._coming = self._thread.submit(self._fetch)
        return batch

    def update_priorities(self, index: Int[Tensor, "B"], priority: Float[Tensor, "B"]) -> None:
        """As the buffer's; the batch that is coming has been drawn before, whatever is faster."""
        if self._coming is not None:
            self._coming.result()
        self._buffer.update_priorities(index, priority)

    def _fetch(self) -> Batch:
        return self._gather(*self._buffer.draw(self._batch_size))

    def _gather(self, index: Int[Tensor, "B"], weight: Float[Tensor, "B"]) -> Batch:
        with self._sending():
            return self._buffer.gather(index, weight)

    def _sending(self) -> AbstractContextManager[object]:
        if self._stream is None:
            return nullcontext()
        # the buffer may lie on the GPU, and be written by the main stream
        self._stream.wait_stream(torch.cuda.default_stream(self._stream.device))
        return torch.cuda.stream(self._stream)

    def state_dict(self) -> dict[str, Tensor] | None:
        """What has been drawn and not been asked for."""
        if self._coming is None:
            return None
        batch = self._coming.result()
        return {"index": batch.index, "weight": batch.weight}

    def load_state_dict(self, state: dict[str, Tensor] | None) -> None:
        """Take what ``state_dict`` gave; the buffer must be filled."""
        self._coming = None
        if state is not None:
            self._coming = Future()
            self._coming.set_result(self._gather(state["index"], state["weight"]))
