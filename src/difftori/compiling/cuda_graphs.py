"""CUDA graphs: what a function asks of the GPU, recorded once and asked again as a whole.

A planned action is thousands of small kernels. Asking for them one by one takes the CPU longer
than the GPU needs for them; a recorded graph is asked for at once. A recording reads and writes
the memory that it was made with, so ``CudaGraphs`` copies arguments into tensors of its own, runs
the graph, and copies the results out.
"""

import gc
import logging
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from difftori.compiling.arguments import is_out_of_memory, kind_of, tensors_in

logger = logging.getLogger(__name__)

WARM_UP_CALLS = 2
"""that run as they are: in them libraries choose kernels, compilers compile, optimizers begin"""


class CudaGraphs:
    """Wraps functions of tensors; without ``enabled`` it hands them back as they are.

    On a CPU a wrapped function runs as it is. On a GPU the first calls with a kind of arguments
    do too; the next one records the function's graph, and from then on it is replayed. A function
    that cannot be recorded is one warning, and runs as it is from then on.
    """

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled
        self._memory: Any = None
        """shared by all graphs: they run one after the other, and results are copied out"""

    def __call__(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        """``function``, replayed; ``name`` is for the user.

        Its arguments are tensors, None, or dataclasses of tensors, without autograd graphs; its
        results also tuples and mappings of them. In the function nothing may depend on values on
        the CPU, draw random numbers or read a tensor's value. What else it reads or changes, as
        weights, must stay where it is.
        """
        if not self.enabled:
            return function
        calls: dict[tuple[Any, ...], int] = {}
        graphs: dict[tuple[Any, ...], _Graph] = {}
        possible = True

        def run(*args: Any) -> Any:
            nonlocal possible
            if not (possible and _on_gpu(args)):
                return function(*args)
            kind = kind_of(args)
            if kind not in graphs:
                calls[kind] = calls.get(kind, 0) + 1
                if calls[kind] <= WARM_UP_CALLS:
                    # on copies, whose order in memory is that of the recording's own tensors
                    return function(*_map_tensors(_copied, args))
                try:
                    graphs[kind] = self._record(function, args)
                except Exception as error:  # CUDA and libraries raise many kinds
                    if is_out_of_memory(error):
                        raise
                    possible = False
                    reason = " ".join(str(error).split("\n\n")[0].split())
                    logger.warning(f"{name} cannot be recorded as a CUDA graph ({reason})")
                    return function(*args)
            return graphs[kind].replay(args)

        return run

    def _record(self, function: Callable[..., Any], args: tuple[Any, ...]) -> "_Graph":
        # An autograd graph that waits for the collector would tie the recording to another stream.
        gc.collect()
        if self._memory is None:
            self._memory = torch.cuda.graph_pool_handle()
        try:
            return _Graph(function, args, self._memory)
        except Exception:
            self._memory = None  # it stays claimed by the recording that failed
            raise


class _Graph:
    """One recording, with the tensors that it reads and writes."""

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...], memory: Any) -> None:
        self._inputs = _map_tensors(_copied, args)
        self._graph = torch.cuda.CUDAGraph()
        # Another thread may use the GPU meanwhile: batches are fetched in one.
        with torch.cuda.graph(self._graph, pool=memory, capture_error_mode="thread_local"):
            self._outputs = function(*self._inputs)

    def replay(self, args: tuple[Any, ...]) -> Any:
        for own, given in zip(tensors_in(self._inputs), tensors_in(args), strict=True):
            own.copy_(given)
        self._graph.replay()
        return _map_tensors(_copied, self._outputs)


def _on_gpu(args: tuple[Any, ...]) -> bool:
    return any(tensor.is_cuda for tensor in tensors_in(args))


def _copied(tensor: Tensor) -> Tensor:
    return tensor.detach().clone()


def _map_tensors(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """``value`` with ``function`` applied to each tensor in it."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, tuple):
        return tuple(_map_tensors(function, part) for part in value)
    if isinstance(value, Mapping):
        return {name: _map_tensors(function, part) for name, part in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: getattr(value, field.name) for field in fields(value)}
        return replace(value, **{k: _map_tensors(function, part) for k, part in parts.items()})
    return value


NO_GRAPHS = CudaGraphs(False)
"""hands every function back as it is"""
