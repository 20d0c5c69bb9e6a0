"""Repeating a step of an optimizer until every row has stopped."""

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Bool
from torch import Tensor

from difftori.compiling.cuda_graphs import CudaGraphs
from difftori.devices import LateRead

CHUNK = 10
"""iterations on a GPU between looks at whether all rows have stopped"""


@runtime_checkable
class Stoppable(Protocol):
    @property
    def stopped(self) -> Bool[Tensor, "B"]: ...


State = TypeVar("State", bound=Stoppable)
"""a dataclass of tensors: where an optimizer stands, row by row"""


class Iterations(Generic[State]):
    """Repeats ``step``, a function of a state and the latents that leaves stopped rows alone.

    Without gradients, a GPU does ten steps as one CUDA graph. Whether to go on is read while the
    next ten run, so the GPU never waits for the CPU.
    """

    def __init__(
        self, step: Callable[[State, Tensor], State], graphs: CudaGraphs, name: str
    ) -> None:
        self._step = step
        self._graphs = graphs
        self._name = name
        self._recorded: dict[int, Callable[[State, Tensor], State]] = {}

    def __call__(self, state: State, z: Tensor, count: int, *, may_stop: bool) -> State:
        """Up to ``count`` steps, fewer if ``may_stop`` and all rows have."""
        on_cpu, late = state.stopped.is_cpu, LateRead()
        while count > 0:
            size = min(1 if on_cpu else CHUNK, count)
            state = self._chunk(size)(state, z)
            count -= size
            if may_stop and count > 0 and any(map(bool, late.push(state.stopped.all()))):
                break
        return state

    def _chunk(self, size: int) -> Callable[[State, Tensor], State]:
        def steps(state: State, z: Tensor) -> State:
            for _ in range(size):
                state = self._step(state, z)
            return state

        if torch.is_grad_enabled():
            return steps
        if size not in self._recorded:
            self._recorded[size] = self._graphs(steps, self._name)
        return self._recorded[size]
