"""The policy-gradient loss through the plan (DiffTORI, sec. 4.2, alg. 1)."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from difftori.learning import losses
from difftori.learning.finite import NonFiniteCounter, check_weights
from difftori.learning.optimizer import GuardedAdam
from difftori.model.world_model import WorldModel
from difftori.schedule import Schedule


@dataclass
class _Sums:
    """Over the agent steps since the last applied step."""

    loss: float = 0.0
    steps: int = 0
    zero_gradients: int = 0
    dropped: int = 0


class PlanGradient:
    """Sums the loss's gradient over plans and applies it with an Adam of its own.

    It trains encoder, dynamics, reward and latent critics; policy and observation critics
    stay as they are.
    """

    def __init__(
        self, model: WorldModel, *, lr: Schedule, max_norm: float, max_nonfinite: int
    ) -> None:
        """``lr`` in agent steps; the summed gradient is clipped at ``max_norm``."""
        self._model = model
        self._lr = lr
        self._optimizer = GuardedAdam(model.plan_parameters(), max_norm)
        self.nonfinite = NonFiniteCounter("the plan's gradient", max_nonfinite)
        self._gradient: list[Tensor] | None = None
        self._sums = _Sums()

    def accumulate(
        self,
        obs: Tensor,
        planned_action: Float[Tensor, "B A"],
        weight: float = 1.0,
        counted: Bool[Tensor, "B"] | None = None,
    ) -> Float[Tensor, "N"]:
        """Add the gradient of weight · Σ −min Q_iˢ(o, â); returns the losses summed.

        ``counted`` are the rows to sum over; None is all of them. A gradient that is not finite
        is dropped and counted.

        Raises:
            NotFiniteError: after ``max_nonfinite`` such gradients in a row.
        """
        loss = losses.plan_loss(self._model, obs, planned_action)
        if counted is not None:
            loss = loss[counted]
        total = weight * loss.sum()
        gradient = torch.autograd.grad(total, self._optimizer.parameters, allow_unused=True)
        filled = [
            torch.zeros_like(parameter) if part is None else part
            for part, parameter in zip(gradient, self._optimizer.parameters, strict=True)
        ]
        norm = torch.nn.utils.get_total_norm(filled)
        finite = bool(torch.isfinite(norm))
        self._sums.steps += 1
        self._sums.dropped += not finite
        if not finite:
            check_weights(self._model)
        else:
            self._sums.loss += float(total.detach())
            self._sums.zero_gradients += bool(norm == 0)
            if self._gradient is None:
                self._gradient = filled
            else:
                torch._foreach_add_(self._gradient, filled)
        self.nonfinite.seen(finite=finite)
        return loss.detach()

    def apply(self, step: int) -> dict[str, float]:
        """Clip, take one Adam step and start over; returns what was summed, for the log.

        ``step`` counts agent steps: the clock of the step size's schedule.
        Empty if nothing was accumulated.
        """
        sums, gradient = self._sums, self._gradient
        self._sums, self._gradient = _Sums(), None
        if sums.steps == 0:
            return {}
        norm = float(self._optimizer.step(gradient, self._lr(step))) if gradient else 0.0
        metrics = {
            "total_a_loss": sums.loss,
            "grad_norm_a": norm,
            "share_zero_gradients": sums.zero_gradients / sums.steps,
            "plans_dropped": float(sums.dropped),
        }
        return metrics

    def discard(self) -> None:
        """Forget what was accumulated, as if its steps had not been taken."""
        self._sums, self._gradient = _Sums(), None

    @property
    def gradient(self) -> dict[str, Tensor]:
        """The sum so far, by parameter name; zeros before the first step."""
        names = {p: name for name, p in self._model.named_parameters()}
        parts = self._gradient or [torch.zeros_like(p) for p in self._optimizer.parameters]
        return {names[p]: g for p, g in zip(self._optimizer.parameters, parts, strict=True)}

    def state_dict(self) -> dict[str, Any]:
        return {
            "optimizer": self._optimizer.state_dict(),
            "gradient": None if self._gradient is None else list(self._gradient),
            "sums": vars(self._sums).copy(),
            "nonfinite": self.nonfinite.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._optimizer.load_state_dict(state["optimizer"])
        gradient = state["gradient"]
        device = self._model.device
        self._gradient = None if gradient is None else [g.to(device, copy=True) for g in gradient]
        self._sums = _Sums(**state["sums"])
        self.nonfinite.load_state_dict(state["nonfinite"])
