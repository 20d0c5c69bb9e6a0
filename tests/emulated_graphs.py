"""CUDA graphs on a CPU: what runs while one is recorded is run again, operation by operation.

As on a GPU, a replay computes in the memory of the recording, whatever Python would do now.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from difftori.compiling import cuda_graphs
from difftori.compiling.cuda_graphs import CudaGraphs

READS_VALUES = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "multinomial"}


class EmulatedGraph(TorchDispatchMode):
    """Stands in for ``torch.cuda.CUDAGraph``, and records while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []
        self._before: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        assert func.overloadpacket.__name__ not in READS_VALUES, f"{func} waits for the GPU"
        for argument, value in zip(func._schema.arguments, args, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                for tensor in tree_leaves(value):
                    self._before.setdefault(id(tensor), (tensor, tensor.detach().clone()))
        out = func(*args, **(kwargs or {}))
        self.operations.append((func, args, kwargs or {}, out))
        return out

    @torch.no_grad()
    def undo(self) -> None:
        """A GPU does nothing of what it records."""
        for tensor, before in self._before.values():
            tensor.copy_(before)

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, out in self.operations:
            again = func(*args, **kwargs)
            for new, recorded in zip(tree_leaves(again), tree_leaves(out), strict=True):
                if isinstance(new, Tensor) and new.data_ptr() != recorded.data_ptr():
                    recorded.copy_(new)


def emulate(monkeypatch: pytest.MonkeyPatch) -> CudaGraphs:
    """Graphs that take CPU tensors for a GPU's."""

    @contextlib.contextmanager
    def graph(recording: EmulatedGraph, **options: Any) -> Iterator[None]:
        with recording:
            yield
        recording.undo()

    monkeypatch.setattr(torch.cuda, "CUDAGraph", EmulatedGraph)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(cuda_graphs, "_on_gpu", lambda args: True)
    return CudaGraphs(True)
