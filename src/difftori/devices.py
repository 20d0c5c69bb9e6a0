"""Devices by name, and moving numbers so that neither CPU nor GPU waits without need."""

import torch
from torch import Tensor


def resolve_device(name: str) -> torch.device:
    """``auto`` is the GPU where there is one; ``cuda`` is the first, by its number."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    # tensors lie on a numbered GPU, and torch's functions for streams and memory ask for the number
    return torch.device("cuda:0" if name == "cuda" else name)


def make_current(device: torch.device) -> None:
    """Let what names no GPU (streams, events, recordings) be on this one."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """``tensor`` on ``device``; a GPU takes it from page-locked memory, and nothing waits."""
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    pinned = tensor if tensor.is_pinned() else tensor.pin_memory()
    return pinned.to(device, non_blocking=True)


def download(*tensors: Tensor) -> list[Tensor]:
    """All of them on the CPU, by one copy and one wait; they must survive the first's dtype."""
    if all(tensor.is_cpu for tensor in tensors):
        return [tensor.detach() for tensor in tensors]
    flat = torch.cat([tensor.detach().flatten().to(tensors[0].dtype) for tensor in tensors]).cpu()
    parts = flat.split([tensor.numel() for tensor in tensors])
    pairs = zip(parts, tensors, strict=True)
    return [part.view(tensor.shape).to(tensor.dtype) for part, tensor in pairs]


class LateRead:
    """Reads one tensor after another, each when the next one comes, so that a GPU goes on working.

    What is read of a CPU tensor is there at once.
    """

    def __init__(self) -> None:
        self._coming: tuple[Tensor, torch.cuda.Event] | None = None

    def push(self, value: Tensor) -> list[Tensor]:
        """Begin to read ``value``; returns what has come: on a GPU, the one before."""
        if value.is_cpu:
            return [value]
        came = self.drain()
        host = torch.empty(value.shape, dtype=value.dtype, pin_memory=True)
        host.copy_(value, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self._coming = (host, event)
        return came

    def drain(self) -> list[Tensor]:
        """Wait for the one that has not come yet, if any."""
        if self._coming is None:
            return []
        host, event = self._coming
        self._coming = None
        event.synchronize()
        return [host]
