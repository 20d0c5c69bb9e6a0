"""The policy-gradient loss through the plan (DiffTORI, sec. 4.2, alg. 1)."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from difftori.devices import LateRead, download
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
        self._usable: Bool[Tensor, ""] | None = None
        """whether any plan's gradient is in the sum, known where the sum lies"""
        self._sums = _Sums()
        self._late = LateRead()

    def accumulate(
        self,
        obs: Tensor,
        planned_action: Float[Tensor, "B A"],
        weight: float = 1.0,
        counted: Bool[Tensor, "B"] | None = None,
    ) -> Float[Tensor, "B"]:
        """Add the gradient of weight · Σ −min Q_iˢ(o, â); returns each row's loss.

        ``counted`` are the rows to sum over; None is all of them. A gradient that is not finite
        is dropped and counted. Nothing waits for a GPU: there it is counted at the next call.

        Raises:
            NotFiniteError: after ``max_nonfinite`` such gradients in a row.
        """
        loss = losses.plan_loss(self._model, obs, planned_action)
        if counted is not None:
            loss = torch.where(counted, loss, 0.0)
        total = weight * loss.sum()
        gradient = torch.autograd.grad(total, self._optimizer.parameters, materialize_grads=True)
        norm = torch.nn.utils.get_total_norm(gradient)
        finite = torch.isfinite(norm)
        kept = [torch.where(finite, part, 0.0) for part in gradient]
        if self._gradient is None:
            self._gradient, self._usable = kept, finite
        else:
            torch._foreach_add_(self._gradient, kept)
            assert self._usable is not None
            self._usable = self._usable | finite
        self._sums.steps += 1
        self._count(self._late.push(torch.stack([total.detach(), norm])))
        return loss.detach()

    def _count(self, came: list[Tensor]) -> None:
        """What has come of losses and norms."""
        for total, norm in (numbers.tolist() for numbers in came):
            finite = math.isfinite(norm)
            self._sums.dropped += not finite
            if finite:
                self._sums.loss += total
                self._sums.zero_gradients += norm == 0
            else:
                check_weights(self._model)
            self.nonfinite.seen(finite=finite)

    def apply(self, step: int) -> dict[str, float]:
        """Clip, take one Adam step and start over; returns what was summed, for the log.

        ``step`` counts agent steps: the clock of the step size's schedule.
        Empty if nothing was accumulated.
        """
        if self._gradient is None:
            return {}
        norm = self._optimizer.step(self._gradient, self._lr(step), self._usable)
        (norm,) = download(norm)
        self._count(self._late.drain())
        sums = self._sums
        if sums.dropped < sums.steps and not math.isfinite(norm):
            self.nonfinite.seen(finite=False, where="the sum over plans")
        self._start_over()
        return {
            "total_a_loss": sums.loss,
            "grad_norm_a": float(norm),
            "share_zero_gradients": sums.zero_gradients / sums.steps,
            "plans_dropped": float(sums.dropped),
        }

    def discard(self) -> None:
        """Forget what was accumulated, as if its steps had not been taken."""
        self._count(self._late.drain())
        self._start_over()

    def _start_over(self) -> None:
        self._sums, self._gradient, self._usable = _Sums(), None, None

    @property
    def gradient(self) -> dict[str, Tensor]:
        """The sum so far, by parameter name; zeros before the first step."""
        names: dict[Tensor, str] = {p: name for name, p in self._model.named_parameters()}
        parts = self._gradient or [torch.zeros_like(p) for p in self._optimizer.parameters]
        return {names[p]: g for p, g in zip(self._optimizer.parameters, parts, strict=True)}

    def state_dict(self) -> dict[str, Any]:
        self._count(self._late.drain())
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
        usable = torch.tensor(self._sums.steps > self._sums.dropped, device=device)
        self._usable = None if gradient is None else usable
        self.nonfinite.load_state_dict(state["nonfinite"])
