"""One guarded step of Adam, and its state as plain data."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


class GuardedAdam:
    """Adam that clips the gradient's norm and takes no step from a gradient that is not finite.

    Whether it is finite is decided where the gradient lies: nothing waits for the device.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], max_norm: float) -> None:
        self.parameters = list(parameters)
        self._max_norm = max_norm
        self._adam = torch.optim.Adam(self.parameters, fused=True)

    def step(
        self, gradients: Sequence[Tensor], lr: float, allowed: Bool[Tensor, ""] | None = None
    ) -> Float[Tensor, ""]:
        """Take one step of size ``lr``; returns the gradient's norm before clipping.

        Nothing changes where the norm is not finite, or not ``allowed``.
        """
        norm = torch.nn.utils.get_total_norm(gradients)
        allowed = torch.isfinite(norm) if allowed is None else torch.isfinite(norm) & allowed
        scale = (self._max_norm / (norm + 1e-6)).clamp(max=1.0)
        clipped = torch._foreach_mul(list(gradients), scale)
        for parameter, gradient in zip(self.parameters, clipped, strict=True):
            # The fused step reads memory in order; compiled convolutions order theirs otherwise.
            parameter.grad = gradient.contiguous()
        for group in self._adam.param_groups:
            group["lr"] = lr
        # The fused step reads this flag, made for gradient scalers, and leaves all as it is if set.
        self._adam.found_inf = (~allowed).to(norm.dtype)  # type: ignore[attr-defined]
        self._adam.step()
        self._adam.zero_grad(set_to_none=True)
        return norm

    def state_dict(self) -> dict[str, Any]:
        """Moments and step counts by the parameter's position."""
        state = self._adam.state_dict()["state"]
        return {str(i): _copied(moments) for i, moments in state.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        whole = self._adam.state_dict()
        # torch keeps the tensors it is given, and steps them in place
        whole["state"] = {int(i): _copied(moments) for i, moments in state.items()}
        self._adam.load_state_dict(whole)


def _copied(moments: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: moment.clone() for name, moment in moments.items()}
