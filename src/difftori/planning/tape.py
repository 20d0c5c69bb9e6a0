"""Networks that keep what their derivative needs, and that derivative as plain operations.

``backward(network, tape, c)`` is cᵀ ∂network/∂x. Written out it costs a fraction of what
autograd's recording does for small batches, and autograd can differentiate it once more like any
other function: that is how the planner differentiates through its own gradient steps.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

Tape = list[tuple[Tensor, ...]]
"""for each layer what ``backward`` needs of it"""


def forward(network: nn.Sequential, x: Float[Tensor, "*B I"]) -> tuple[Float[Tensor, "*B O"], Tape]:
    """The network's output and its tape.

    Raises TypeError for a layer whose derivative is not written here.
    """
    tape: Tape = []
    for layer in network:
        if isinstance(layer, nn.Linear):
            x = layer(x)
            tape.append(())
        elif isinstance(layer, (nn.ELU, nn.Tanh)):
            x = layer(x)
            tape.append((x,))
        elif isinstance(layer, nn.LayerNorm):
            variance, mean = torch.var_mean(x, dim=-1, correction=0, keepdim=True)
            scale = torch.rsqrt(variance + layer.eps)
            x = (x - mean) * scale
            tape.append((x, scale))
            x = torch.addcmul(layer.bias, x, layer.weight)
        else:
            raise TypeError(f"no derivative is written for {type(layer).__name__}")
    return x, tape


def backward(network: nn.Sequential, tape: Tape, c: Float[Tensor, "*B O"]) -> Float[Tensor, "*B I"]:
    """cᵀ ∂network/∂x where ``forward`` was evaluated, row by row."""
    for layer, saved in zip(reversed(network), reversed(tape), strict=True):
        if isinstance(layer, nn.Linear):
            c = c @ layer.weight
        elif isinstance(layer, nn.ELU):
            (y,) = saved
            c = c * elu_slope(y)
        elif isinstance(layer, nn.Tanh):
            (y,) = saved
            c = c - c * y.square()
        elif isinstance(layer, nn.LayerNorm):
            x, scale = saved
            c = c * layer.weight
            along = x * (c * x).mean(dim=-1, keepdim=True)
            c = (c - c.mean(dim=-1, keepdim=True) - along) * scale
    return c


def elu_slope(y: Tensor) -> Tensor:
    """ELU's derivative from its output: 1 above zero, eˣ = y + 1 below."""
    return y.clamp(max=0) + 1
