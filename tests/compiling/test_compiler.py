import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from difftori.compiling.compiler import Compiler


@pytest.fixture(scope="module")
def comparisons() -> dict[str, dict[str, float]]:
    """By name: graphs compiled, breaks in them, and the largest deviation from eager."""
    script = Path(__file__).parent / "compiled.py"
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {line.pop("name"): line for line in lines}


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("plan", 1e-5),
        ("plan by the real compiler", 1e-5),
        ("update", 1e-5),
    ],
)
def test_compiled_equals_eager_in_graphs_without_breaks(
    comparisons: dict[str, dict[str, float]], name: str, tolerance: float
) -> None:
    if name not in comparisons:
        pytest.skip("no C++ compiler on this machine")
    assert comparisons[name]["graphs"] > 0
    assert comparisons[name]["breaks"] == 0
    assert comparisons[name]["deviation"] < tolerance


def test_announces_each_new_shape_once() -> None:
    said: list[str] = []
    compiler = Compiler(True, announce=said.append, backend="eager")
    double = compiler(lambda x: 2 * x, "doubling")
    for size in (2, 2, 3, 2):
        assert torch.equal(double(torch.ones(size)), torch.full((size,), 2.0))
    begins = [line for line in said if line.startswith("compiling doubling for")]
    assert [line.split(":")[0] for line in begins] == [
        "compiling doubling for 2",
        "compiling doubling for 3",
    ]
    assert len(said) == 4
    assert "compiled doubling in" in said[1]


def test_memory_laid_out_otherwise_is_another_version() -> None:
    said: list[str] = []
    compiler = Compiler(True, announce=said.append, backend="eager")
    double = compiler(lambda x: 2 * x, "doubling")
    square, row = torch.arange(4.0).view(2, 2), torch.arange(4.0).view(1, 4)
    for x, versions in ((square, 1), (square.t(), 2), (square.t(), 2), (row, 3)):
        assert torch.equal(double(x), 2 * x)
        assert len(said) == 2 * versions
    assert torch.equal(double(row.expand(3, 4)[:1]), 2 * row)
    assert len(said) == 6


def test_steps_aside_with_one_warning_where_it_cannot_compile() -> None:
    def broken(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> None:
        raise RuntimeError("no compiler here\nand more")

    warned: list[str] = []
    compiler = Compiler(True, warn=warned.append, backend=broken)
    double, triple = compiler(lambda x: 2 * x, "doubling"), compiler(lambda x: 3 * x, "tripling")
    for _ in range(2):
        assert torch.equal(double(torch.ones(2)), torch.full((2,), 2.0))
        assert torch.equal(triple(torch.ones(2)), torch.full((2,), 3.0))
    assert len(warned) == 1
    assert "doubling cannot be compiled here" in warned[0]
    assert "no compiler here" in warned[0]
    assert not compiler.enabled


def test_hands_functions_back_when_it_is_off() -> None:
    def double(x: Tensor) -> Tensor:
        return 2 * x

    assert Compiler(False)(double, "doubling") is double
