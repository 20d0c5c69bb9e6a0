"""torch.compile with manners: says when it takes its time, and steps aside where it cannot work.

The compiled function and its eager twin are one body: ``Compiler`` wraps it, or hands it back.
"""

import time
from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any

import torch
from torch import Tensor


class Compiler:
    """Wraps functions of tensors; without ``enabled`` it hands them back as they are.

    Each new shape compiles once in a process (and is then cached on disk by torch): that is
    announced before, and again with the seconds it took. The first failure, on a machine without
    a C++ compiler for example, is one warning, and everything runs as it is from then on.
    """

    def __init__(
        self,
        enabled: bool,
        *,
        announce: Callable[[str], None] = lambda text: None,
        warn: Callable[[str], None] = lambda text: None,
        backend: str | Callable[..., Any] = "inductor",
    ) -> None:
        self.enabled = enabled
        self._backend = backend
        self._announce = announce
        self._warn = warn

    def __call__(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        """``function`` of tensors, compiled without graph breaks; ``name`` is for the user.

        It may read nothing but its arguments and weights that stay where they are: a version is
        chosen by the arguments' kinds alone, see ``_kind``.
        """
        if not self.enabled:
            return function
        versions: dict[tuple[Any, ...], Callable[..., Any]] = {}

        def run(*args: Tensor | None) -> Any:
            if not self.enabled:
                return function(*args)
            kind = _kind(args)
            if kind in versions:
                return versions[kind](*args)
            result, version = self._first_run(name, function, args)
            if version is not None:
                versions[kind] = version
            return result

        return run

    def _compiled(
        self, function: Callable[..., Any], args: Sequence[Tensor | None]
    ) -> Callable[..., Any]:
        alias: Any = lambda *args: function(*args)  # noqa: E731, no shape checks of the tests in it
        # torch keeps what it compiled with the code object: each version has one of its own.
        code = alias.__code__.replace()
        version = FunctionType(code, alias.__globals__, "version", None, alias.__closure__)
        options: dict[str, Any] = {}
        if self._backend == "inductor":
            from difftori.compiling.sum_fusion import MergeProducts  # imports the compiler

            # In this process, not in workers that a Ctrl-C would hit.
            torch._inductor.config.compile_threads = 1
            # What torch would check before each call, weight by weight, is known: see _kind.
            options["guard_filter_fn"] = lambda guards: [False for _ in guards]
            options["post_grad_custom_pre_pass"] = MergeProducts()
            options["cpp_wrapper"] = all(arg is None or arg.is_cpu for arg in args)
        return torch.compile(
            version, fullgraph=True, dynamic=False, backend=self._backend, options=options or None
        )

    def _first_run(
        self,
        name: str,
        function: Callable[..., Any],
        args: Sequence[Tensor | None],
    ) -> tuple[Any, Callable[..., Any] | None]:
        """The result, and the compiled version unless it cannot be compiled."""
        shapes = ", ".join("×".join(map(str, arg.shape)) for arg in args if arg is not None)
        self._announce(f"compiling {name} for {shapes}: this takes up to a minute, once")
        begin = time.monotonic()
        try:
            version = self._compiled(function, args)
            result = version(*args)
        except Exception as error:  # the compiler raises many kinds; eager is always right
            self.enabled = False
            reason = " ".join(str(error).split("\n\n")[0].split())
            self._warn(f"compile=true is off: {name} cannot be compiled here ({reason})")
            return function(*args), None
        self._announce(f"compiled {name} in {time.monotonic() - begin:.0f} s")
        return result, version


def _kind(args: Sequence[Tensor | None]) -> tuple[Any, ...]:
    """What a compiled version is for."""
    with_graph = torch.is_grad_enabled()
    kinds = [
        None
        if arg is None
        else (arg.shape, _strides(arg), arg.dtype, arg.device, with_graph and arg.requires_grad)
        for arg in args
    ]
    return (with_graph, *kinds)


def _strides(arg: Tensor) -> tuple[int, ...]:
    """In memory; that of a single row or column says nothing."""
    return tuple(stride for size, stride in zip(arg.shape, arg.stride(), strict=True) if size > 1)


EAGER = Compiler(False)
"""hands every function back as it is"""
