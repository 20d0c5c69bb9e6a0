"""Networks that keep what their derivative needs, and that derivative as plain operations.

``backward(network, tape, c)`` is cᵀ ∂network/∂x. Written out it costs a fraction of what
autograd's recording does for small batches, and autograd can differentiate it once more like any
other function: that is how the planner differentiates through its own gradient steps.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

aten = torch.ops.aten

Tape = list[tuple[Tensor, ...]]
"""for each layer what ``backward`` needs of it"""


def forward(layers: Iterable[nn.Module], x: Float[Tensor, "*B I"]) -> tuple[Tensor, Tape]:
    """The layers' output ``[*B, O]`` and its tape.

    Raises TypeError for a layer whose derivative is not written here.
    """
    tape: Tape = []
    for layer in layers:
        if isinstance(layer, nn.Linear):
            x = functional.linear(x, layer.weight, layer.bias)
            tape.append(())
        elif isinstance(layer, nn.ELU):
            x = functional.elu(x)
            tape.append((x,))
        elif isinstance(layer, nn.Tanh):
            x = torch.tanh(x)
            tape.append((x,))
        elif isinstance(layer, nn.LayerNorm):
            shape, weight, bias = layer.normalized_shape, layer.weight, layer.bias
            y, mean, scale = torch.native_layer_norm(x, shape, weight, bias, layer.eps)
            tape.append((x, mean, scale))
            x = y
        else:
            raise TypeError(f"a {type(layer).__name__}, whose derivative is not written here")
    return x, tape


def backward(layers: Iterable[nn.Module], tape: Tape, c: Float[Tensor, "*B O"]) -> Tensor:
    """cᵀ ∂network/∂x ``[*B, I]`` where ``forward`` was evaluated, row by row."""
    for layer, saved in zip(reversed(list(layers)), reversed(tape), strict=True):
        if isinstance(layer, nn.Linear):
            c = c @ layer.weight
        elif isinstance(layer, nn.ELU):
            c = aten.elu_backward.default(c, 1, 1, 1, True, *saved)  # from the layer's output
        elif isinstance(layer, nn.Tanh):
            c = aten.tanh_backward.default(c, *saved)
        elif isinstance(layer, nn.LayerNorm):
            x, mean, scale = saved
            shape, weight, bias = layer.normalized_shape, layer.weight, layer.bias
            only_of_x = [True, False, False]
            c, _, _ = aten.native_layer_norm_backward.default(
                c, x, shape, mean, scale, weight, bias, only_of_x
            )
    return c
