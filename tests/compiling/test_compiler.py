import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from functorch.compile import make_boxed_func
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd

from difftori.compiling.compiler import Compiler


@pytest.fixture(scope="module")
def comparisons() -> dict[str, dict[str, float]]:
    """By name: graphs compiled, breaks in them, and the largest deviation from eager."""
    script = Path(__file__).parents[1] / "compiled.py"
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {line.pop("name"): line for line in lines}


@pytest.mark.parametrize("by", ["", " by the real compiler"])
@pytest.mark.parametrize(
    ("name", "graphs"), [("plan", 2), ("trust region", 2), ("sampling planner", 1), ("update", 2)]
)
def test_compiled_equals_eager_in_graphs_without_breaks(
    comparisons: dict[str, dict[str, float]], name: str, graphs: int, by: str
) -> None:
    """Forward and backward: plans with the loss's gradient, updates with their step."""
    if by and not any(compared.endswith(by) for compared in comparisons):
        pytest.skip("the real compiler needs a C++ compiler, and this machine has none")
    comparison = comparisons[name + by]
    assert comparison["graphs"] == graphs
    assert comparison["breaks"] == 0
    assert comparison["deviation"] < 1e-5


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What the compiler has announced so far."""
    caplog.set_level(logging.INFO, logger="difftori")
    return lambda: [record.getMessage() for record in caplog.records]


def doubling(backend: Any = "eager") -> tuple[Compiler, Callable[[Tensor], Tensor]]:
    compiler = Compiler(True, backend=backend)
    return compiler, compiler(lambda x: 2 * x, "doubling")


def test_announces_each_new_shape_once(said: Callable[[], list[str]]) -> None:
    _, double = doubling()
    for size in (2, 2, 3, 2):
        assert torch.equal(double(torch.ones(size)), torch.full((size,), 2.0))
    assert [line.split(":")[0] for line in said()[::2]] == [
        "compiling doubling for 2",
        "compiling doubling for 3",
    ]
    assert len(said()) == 4
    assert "compiled doubling in" in said()[1]


def test_memory_laid_out_otherwise_is_another_version(said: Callable[[], list[str]]) -> None:
    _, double = doubling()
    square, row = torch.arange(4.0).view(2, 2), torch.arange(4.0).view(1, 4)
    for x, versions in ((square, 1), (square.t(), 2), (square.t(), 2), (row, 3)):
        assert torch.equal(double(x), 2 * x)
        assert len(said()) == 2 * versions
    assert torch.equal(double(row.expand(3, 4)[:1]), 2 * row)
    assert len(said()) == 6


def test_another_precision_is_another_version(said: Callable[[], list[str]]) -> None:
    """A version that was traced under autocast has its products in bf16 for ever."""
    linear = nn.Linear(3, 3)
    compiled = Compiler(True, backend="eager")(lambda x: linear(x), "a layer")
    for enabled, dtype in ((True, torch.bfloat16), (False, torch.float32), (True, torch.bfloat16)):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            assert compiled(torch.ones(1, 3)).dtype == dtype
    assert len(said()) == 4
    torch.set_float32_matmul_precision("medium")
    try:
        compiled(torch.ones(1, 3))
    finally:
        torch.set_float32_matmul_precision("highest")
    assert len(said()) == 6


def test_one_version_serves_tensors_with_and_without_a_graph(
    said: Callable[[], list[str]],
) -> None:
    double = Compiler(True, backend="eager")(lambda x: 2 * x, "doubling", with_graph=(0,))
    for x in (torch.ones(2), torch.ones(2, requires_grad=True)):
        assert double(x).requires_grad
    with torch.no_grad():
        assert not double(torch.ones(2)).requires_grad
    assert len(said()) == 4


def no_compiler(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> None:
    raise RuntimeError("no compiler here\nand more")


no_backward = aot_autograd(
    fw_compiler=lambda graph, inputs: make_boxed_func(graph.forward), bw_compiler=no_compiler
)


@pytest.mark.parametrize("backend", [no_compiler, no_backward], ids=["forward", "backward"])
def test_steps_aside_with_one_warning_where_it_cannot_compile(
    backend: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The backward pass is compiled with the forward one, where a failure is caught."""
    compiler, double = doubling(backend)
    triple = compiler(lambda x: 3 * x, "tripling")
    x = torch.ones(2, requires_grad=True)
    for _ in range(2):
        for function, factor in ((double, 2.0), (triple, 3.0)):
            (gradient,) = torch.autograd.grad(function(x).sum(), x)
            assert torch.equal(gradient, torch.full((2,), factor))
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert "doubling cannot be compiled here" in warning
    assert "no compiler here" in warning
    assert not compiler.enabled


@pytest.mark.parametrize("when", ["compiling", "running"])
def test_memory_that_runs_out_is_not_taken_for_a_missing_compiler(
    when: str, caplog: pytest.LogCaptureFixture
) -> None:
    def run(*args: Tensor) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        return run() if when == "compiling" else run

    compiler, double = doubling(backend)
    with pytest.raises(Exception, match="out of memory"):
        double(torch.ones(2))
    assert compiler.enabled
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize(("device", "threads"), [("cpu", 1), ("meta", 7)])
def test_only_a_cpus_versions_are_compiled_one_by_one(device: str, threads: int) -> None:
    config = torch._inductor.config
    with config.patch(compile_threads=7):
        Compiler(True)._compiled(lambda x: 2 * x, [torch.ones(2, device=device)])
        assert config.compile_threads == threads


def test_hands_functions_back_when_it_is_off() -> None:
    def double(x: Tensor) -> Tensor:
        return 2 * x

    assert Compiler(False)(double, "doubling") is double
