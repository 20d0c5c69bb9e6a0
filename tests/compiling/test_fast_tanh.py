from collections import Counter

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from difftori.compiling.fast_tanh import LARGE, CpuPasses

aten = torch.ops.aten


def function(x: Tensor) -> Tensor:
    return torch.tanh(x) ** 2


@pytest.mark.parametrize(
    ("size", "dtype", "replaced"),
    [
        (LARGE, torch.float32, True),
        (LARGE - 1, torch.float32, False),
        (LARGE, torch.float64, False),
    ],
)
def test_large_float32_ones_are_replaced(size: int, dtype: torch.dtype, replaced: bool) -> None:
    x = torch.linspace(-20, 20, size, dtype=dtype)
    module = make_fx(function, tracing_mode="fake")(x)
    CpuPasses()(module.graph)
    module.graph.lint()
    module.recompile()
    targets = Counter(node.target for node in module.graph.nodes)
    assert targets[aten.tanh.default] == (not replaced)
    torch.testing.assert_close(module(x), function(x), atol=1e-6, rtol=0)
    for node in module.graph.nodes:
        if node.op == "call_function":
            assert "val" in node.meta
