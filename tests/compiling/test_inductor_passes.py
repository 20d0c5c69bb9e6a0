from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from difftori.compiling.inductor_passes import LARGE, CpuPasses, FuseMatmulSums

aten = torch.ops.aten

PARTS = [torch.randn(4, 3, generator=torch.Generator().manual_seed(seed)) for seed in range(4)]


def rank_one_updates(*parts: Tensor) -> Tensor:
    """As the gradient of a weight that is used for each of ``parts``."""
    total = torch.zeros(3, 3)
    for part in parts:
        total = total + part.t() @ part
    return total


def two_sums(*parts: Tensor) -> Tensor:
    """The first sum is used twice, so it must stay what it is."""
    first = parts[0].t() @ parts[0] + parts[1].t() @ parts[1]
    return first * (first + parts[2].t() @ parts[2] + parts[3].t() @ parts[3])


def twice_the_same(*parts: Tensor) -> Tensor:
    product = parts[0].t() @ parts[0]
    return product + product


def a_product_used_elsewhere(*parts: Tensor) -> Tensor:
    product = parts[0].t() @ parts[0]
    return product * (product + parts[1].t() @ parts[1])


def broadcast(*parts: Tensor) -> Tensor:
    return parts[0].t() @ parts[0] + (parts[1].t() @ parts[1])[:1]


@pytest.mark.parametrize(
    ("function", "products"),
    [
        (rank_one_updates, 1),
        (two_sums, 2),
        (twice_the_same, 1),
        (a_product_used_elsewhere, 2),
        (broadcast, 2),
    ],
)
def test_sums_of_products_become_one(function: Callable[..., Tensor], products: int) -> None:
    module = make_fx(function, tracing_mode="fake")(*PARTS)
    FuseMatmulSums()(module.graph)
    module.graph.lint()
    module.recompile()
    targets = Counter(node.target for node in module.graph.nodes)
    assert targets[aten.mm.default] == products
    torch.testing.assert_close(module(*PARTS), function(*PARTS))
    for node in module.graph.nodes:
        if node.op == "call_function":
            assert node.meta["val"].shape is not None


def squared_tanh(x: Tensor) -> Tensor:
    return torch.tanh(x) ** 2


@pytest.mark.parametrize(
    ("size", "dtype", "replaced"),
    [
        (LARGE, torch.float32, True),
        (LARGE - 1, torch.float32, False),
        (LARGE, torch.float64, False),
    ],
)
def test_tanh_of_large_float32_tensors_is_replaced(
    size: int, dtype: torch.dtype, replaced: bool
) -> None:
    x = torch.linspace(-20, 20, size, dtype=dtype)
    module = make_fx(squared_tanh, tracing_mode="fake")(x)
    CpuPasses()(module.graph)
    module.graph.lint()
    module.recompile()
    targets = Counter(node.target for node in module.graph.nodes)
    assert targets[aten.tanh.default] == (not replaced)
    torch.testing.assert_close(module(x), squared_tanh(x), atol=1e-6, rtol=0)
    for node in module.graph.nodes:
        if node.op == "call_function":
            assert "val" in node.meta
