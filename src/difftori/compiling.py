"""torch.compile with manners: says when it takes its time, and steps aside where it cannot work.

The compiled function and its eager twin are one body: ``Compiler`` wraps it, or hands it back.
"""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

MAX_VARIANTS = 64
"""compiled versions of one function: each horizon, batch size and use of gradients is one"""


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
        self.variants: dict[str, set[tuple[Any, ...]]] = {}
        """what has been compiled, by function name: shapes, and whether gradients were on"""

    def __call__(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        """``function`` of tensors, compiled without graph breaks; ``name`` is for the user."""
        if not self.enabled:
            return function
        torch._dynamo.config.recompile_limit = MAX_VARIANTS
        # In this process, not in workers that a Ctrl-C would hit.
        torch._inductor.config.compile_threads = 1
        compiled = torch.compile(function, fullgraph=True, dynamic=False, backend=self._backend)
        seen = self.variants.setdefault(name, set())

        def run(*args: Tensor | None) -> Any:
            if not self.enabled:
                return function(*args)
            variant = _variant(args)
            if variant in seen:
                return compiled(*args)
            return self._first_run(name, function, compiled, variant, args)

        return run

    def _first_run(
        self,
        name: str,
        function: Callable[..., Any],
        compiled: Callable[..., Any],
        variant: tuple[Any, ...],
        args: tuple[Tensor | None, ...],
    ) -> Any:
        shapes = ", ".join("×".join(map(str, arg.shape)) for arg in args if arg is not None)
        self._announce(f"compiling {name} for {shapes}: this takes up to a minute, once")
        begin = time.monotonic()
        try:
            result = compiled(*args)
        except Exception as error:  # the compiler raises many kinds; eager is always right
            self.enabled = False
            reason = " ".join(str(error).split("\n\n")[0].split())
            self._warn(f"compile=true is off: {name} cannot be compiled here ({reason})")
            return function(*args)
        self.variants[name].add(variant)
        self._announce(f"compiled {name} in {time.monotonic() - begin:.0f} s")
        return result


def _variant(args: tuple[Tensor | None, ...]) -> tuple[Any, ...]:
    """What a compiled version is for."""
    tensors = [arg for arg in args if arg is not None]
    with_graph = torch.is_grad_enabled() and tuple(arg.requires_grad for arg in tensors)
    return (with_graph, *(tuple(arg.shape) for arg in tensors))


EAGER = Compiler(False)
"""hands every function back as it is"""
