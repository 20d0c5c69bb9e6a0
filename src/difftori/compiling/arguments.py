"""What compiled and recorded versions of a function are told apart by: its tensors."""

from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor


def tensors_in(args: Sequence[Any]) -> Iterator[Tensor]:
    """Those among ``args``, and those in dataclasses among them."""
    for arg in args:
        if isinstance(arg, Tensor):
            yield arg
        elif is_dataclass(arg):
            yield from tensors_in([getattr(arg, field.name) for field in fields(arg)])


def kind_of(args: Sequence[Any]) -> tuple[Any, ...]:
    """What a version is for: the arguments, and the state of torch that products read."""
    with_graph = torch.is_grad_enabled()
    tensors = [
        (t.shape, _strides(t), t.dtype, t.device, with_graph and t.requires_grad)
        for t in tensors_in(args)
    ]
    missing = tuple(arg is None for arg in args)
    return (with_graph, missing, *_precision(tensors[0][3].type if tensors else "cpu"), *tensors)


def _precision(device: str) -> tuple[Any, ...]:
    autocast = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device)
    return (autocast, torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32)


def _strides(tensor: Tensor) -> tuple[int, ...]:
    """In memory; that of a single row or column says nothing."""
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    return tuple(stride for size, stride in sizes if size > 1)


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether memory ran out, as itself or as what another error came from."""
    while error is not None:
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
            return True
        if "can't allocate memory" in str(error):  # torch's RuntimeError on a CPU
            return True
        error = error.__cause__ or error.__context__
    return False
