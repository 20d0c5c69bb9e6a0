"""One guarded step of Adam, and its state as plain data."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

BETA1, BETA2, EPS = 0.9, 0.999, 1e-8


class GuardedAdam:
    """Adam that clips the gradient's norm and takes no step from a gradient that is not finite.

    Whether it is finite is decided where the gradient lies: nothing waits for the device. The step
    is ``torch.optim.Adam``'s fused kernel, without that class's bookkeeping for each parameter,
    which takes longer than the kernel where networks are small.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], max_norm: float) -> None:
        self.parameters: list[Tensor] = list(parameters)
        self._max_norm = max_norm
        self._mean = [torch.zeros_like(p) for p in self.parameters]
        self._mean_of_squares = [torch.zeros_like(p) for p in self.parameters]
        # one count for all: they step together
        self._steps = torch.zeros((), device=self.parameters[0].device)

    @torch.no_grad()
    def step(
        self,
        gradients: Sequence[Tensor],
        lr: float | Float[Tensor, ""],
        allowed: Bool[Tensor, ""] | None = None,
    ) -> Float[Tensor, ""]:
        """Take one step of size ``lr``; returns the gradient's norm before clipping.

        Nothing changes where the norm is not finite, or not ``allowed``. In a CUDA graph ``lr`` is
        a tensor on the GPU: a number would be the same in every replay.
        """
        # The fused step reads memory in order; compiled convolutions order theirs otherwise.
        gradients = [gradient.contiguous() for gradient in gradients]
        norm = torch.stack(torch._foreach_norm(gradients)).norm()
        allowed = torch.isfinite(norm) if allowed is None else torch.isfinite(norm) & allowed
        clipped = torch._foreach_mul(gradients, (self._max_norm / (norm + 1e-6)).clamp(max=1.0))
        self._steps += allowed
        torch._fused_adam_(
            self.parameters,
            clipped,
            self._mean,
            self._mean_of_squares,
            [],
            [self._steps] * len(self.parameters),
            lr=lr,
            beta1=BETA1,
            beta2=BETA2,
            weight_decay=0.0,
            eps=EPS,
            amsgrad=False,
            maximize=False,
            # made for gradient scalers: if set, all stays as it is
            found_inf=(~allowed).float(),
        )
        return norm

    def state_dict(self) -> dict[str, Any]:
        """Moments and step counts by the parameter's position, as ``torch.optim.Adam`` has them."""
        return {
            str(i): {"step": self._steps.clone(), "exp_avg": m.clone(), "exp_avg_sq": s.clone()}
            for i, (m, s) in enumerate(zip(self._mean, self._mean_of_squares, strict=True))
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """In place: a CUDA graph of the step goes on with these moments."""
        for i, moments in state.items():
            self._mean[int(i)].copy_(moments["exp_avg"])
            self._mean_of_squares[int(i)].copy_(moments["exp_avg_sq"])
            self._steps.copy_(moments["step"])
