"""Networks that keep what their derivative needs, and that derivative as plain operations.

``backward(network, tape, c)`` is cᵀ ∂network/∂x. Written out it costs a fraction of what
autograd's recording does for small batches, and autograd can differentiate it once more like any
other function: that is how the planner differentiates through its own gradient steps.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from difftori.model.networks import PreciseLinear

Tape = list[tuple[Tensor, ...]]
"""for each layer what ``backward`` needs of it"""

_KNOWN_LAYERS = (nn.Linear, PreciseLinear, nn.ELU, nn.Tanh, nn.LayerNorm)


def unknown_part(network: nn.Module) -> str | None:
    """What of a network the derivative here would leave out; None if nothing."""
    if type(network) is not nn.Sequential:
        return f"a {type(network).__name__} as a whole network"
    for layer in (network, *network):
        if layer is not network and type(layer) not in _KNOWN_LAYERS:
            return f"a {type(layer).__name__}"
        if "forward" in vars(layer) or _hooks(layer):
            return f"a hook on a {type(layer).__name__}"
        if isinstance(layer, nn.ELU) and (layer.alpha != 1 or layer.inplace):
            return f"{layer}"
        if isinstance(layer, nn.LayerNorm) and (
            layer.bias is None or len(layer.normalized_shape) != 1
        ):
            return f"{layer}"
    return None


def forward(layers: Iterable[nn.Module], x: Float[Tensor, "*B I"]) -> tuple[Tensor, Tape]:
    """The layers' output ``[*B, O]`` and its tape.

    Raises TypeError for a layer whose derivative is not written here.
    """
    tape: Tape = []
    for layer in layers:
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


def backward(layers: Iterable[nn.Module], tape: Tape, c: Float[Tensor, "*B O"]) -> Tensor:
    """cᵀ ∂network/∂x ``[*B, I]`` where ``forward`` was evaluated, row by row."""
    for layer, saved in zip(reversed(list(layers)), reversed(tape), strict=True):
        if isinstance(layer, nn.Linear):
            c = c @ layer.weight
        elif isinstance(layer, nn.ELU):
            (y,) = saved
            c = c * _elu_slope(y)
        elif isinstance(layer, nn.Tanh):
            (y,) = saved
            c = c - c * y.square()
        elif isinstance(layer, nn.LayerNorm):
            x, scale = saved
            c = c * layer.weight
            along = x * (c * x).mean(dim=-1, keepdim=True)
            c = (c - c.mean(dim=-1, keepdim=True) - along) * scale
    return c


def _elu_slope(y: Tensor) -> Tensor:
    """ELU's derivative from its output: 1 above zero, eˣ = y + 1 below."""
    return y.clamp(max=0) + 1


def _hooks(layer: nn.Module) -> bool:
    hooks = (layer._forward_hooks, layer._forward_pre_hooks)
    return any(hooks) or any((layer._backward_hooks, layer._backward_pre_hooks))
