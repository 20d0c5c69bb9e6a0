"""torch.compile with announcements and an eager fallback.

The compiled function and its eager twin are one body: ``Compiler`` wraps it, or hands it back.
"""

import logging
import time
from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any

import torch
from torch._functorch import config as functorch_config

from difftori.compiling.arguments import is_out_of_memory, kind_of, tensors_in
from difftori.compiling.cuda_graphs import NO_GRAPHS, CudaGraphs

logger = logging.getLogger(__name__)


class Compiler:
    """Wraps functions of tensors; without ``enabled`` it hands them back as they are.

    Each new shape compiles once in a process, forward and backward (and is then cached on disk by
    torch): that is announced before, and again with the seconds it took. The first failure, on a
    machine without a C++ compiler for example, is one warning, and everything runs as it is from
    then on.
    """

    def __init__(
        self,
        enabled: bool,
        *,
        backend: str | Callable[..., Any] = "inductor",
        graphs: CudaGraphs = NO_GRAPHS,
    ) -> None:
        self.enabled = enabled
        self.graphs = graphs
        """records what it is given as CUDA graphs, compiled parts included"""
        self._backend = backend

    def __call__(
        self, function: Callable[..., Any], name: str, *, with_graph: Sequence[int] = ()
    ) -> Callable[..., Any]:
        """``function``, compiled without graph breaks; ``name`` is for the user.

        Its arguments are tensors, None, or dataclasses of tensors. It may read nothing else but
        weights that stay where they are: a version is chosen by ``kind_of`` alone.

        Args:
            with_graph: positions of tensors that come with and without a graph, and need no
                version for each: where gradients are on, they are given one.
        """
        if not self.enabled:
            return function
        versions: dict[tuple[Any, ...], Callable[..., Any]] = {}

        def run(*args: Any) -> Any:
            if not self.enabled:
                return function(*args)
            args = _given_graphs(args, with_graph)
            kind = kind_of(args)
            if kind in versions:
                return versions[kind](*args)
            result, version = self._first_run(name, function, args)
            if version is not None:
                versions[kind] = version
            return result

        return run

    def _first_run(
        self, name: str, function: Callable[..., Any], args: Sequence[Any]
    ) -> tuple[Any, Callable[..., Any] | None]:
        """The result, and the compiled version unless it cannot be compiled."""
        shapes = ", ".join("×".join(map(str, tensor.shape)) for tensor in tensors_in(args))
        logger.info(f"compiling {name} for {shapes}: this takes up to a minute, once")
        begin = time.monotonic()
        try:
            # The backward pass too, which would else be compiled when it first runs: unguarded.
            with functorch_config.patch(force_non_lazy_backward_lowering=True):
                version = self._compiled(function, args)
                result = version(*args)
        except Exception as error:  # the compiler raises many kinds; eager is always right
            if is_out_of_memory(error):
                raise
            self._give_up(name, error)
            return function(*args), None
        logger.info(f"compiled {name} in {time.monotonic() - begin:.0f} s")
        return result, version

    def _give_up(self, name: str, error: Exception) -> None:
        """Run everything as it is from now on."""
        self.enabled = False
        reason = " ".join(str(error).split("\n\n")[0].split())
        logger.warning(f"compile=true is off: {name} cannot be compiled here ({reason})")

    def _compiled(self, function: Callable[..., Any], args: Sequence[Any]) -> Callable[..., Any]:
        alias: Any = lambda *args: function(*args)  # noqa: E731, no shape checks of the tests in it
        # torch keeps what it compiled with the code object: each version has one of its own.
        code = alias.__code__.replace()
        version = FunctionType(code, alias.__globals__, "version", None, alias.__closure__)
        options: dict[str, Any] = {}
        if self._backend == "inductor":
            # these import the compiler
            from difftori.compiling.inductor_passes import CpuPasses, FuseMatmulSums

            on_cpu = all(tensor.is_cpu for tensor in tensors_in(args))
            if on_cpu:
                # In this process, not in workers that a Ctrl-C would hit.
                torch._inductor.config.compile_threads = 1
            # What torch would check before each call, weight by weight, is known: see kind_of.
            options["guard_filter_fn"] = lambda guards: [False for _ in guards]
            options["post_grad_custom_pre_pass"] = CpuPasses() if on_cpu else FuseMatmulSums()
            options["cpp_wrapper"] = on_cpu
        return torch.compile(
            version, fullgraph=True, dynamic=False, backend=self._backend, options=options or None
        )


def _given_graphs(args: tuple[Any, ...], positions: Sequence[int]) -> tuple[Any, ...]:
    if not torch.is_grad_enabled():
        return args
    return tuple(
        arg.detach().requires_grad_() if i in positions and not arg.requires_grad else arg
        for i, arg in enumerate(args)
    )


EAGER = Compiler(False)
"""hands every function back as it is"""
