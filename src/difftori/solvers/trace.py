"""What Levenberg–Marquardt's iterations on plans have seen."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Trace:
    """Where a run of iterations stands and what it has seen, row by row.

    Squared residuals are halved, as Theseus does.
    """

    actions: Float[Tensor, "B D"]
    """the present iterate, with its graph if there is one"""
    best: Float[Tensor, "B D"]
    best_err: Float[Tensor, "B"]
    best_residual: Float[Tensor, "B"]
    first_residual: Float[Tensor, "B"]
    last_err: Float[Tensor, "B"]
    stopped: Bool[Tensor, "B"]
    iterations: Int[Tensor, "B"]

    @classmethod
    def start(cls, actions: Float[Tensor, "B D"], residual: Float[Tensor, "B"]) -> "Trace":
        err, best = residual.square() / 2, actions.detach()
        stopped, iterations = torch.zeros_like(err).bool(), torch.zeros_like(err).long()
        return cls(actions, best, err, residual, residual, err, stopped, iterations)

    def see(self, residual: Float[Tensor, "B"]) -> "Trace":
        """With the residual of ``actions``; of equally good iterates the first is the best."""
        err = residual.square() / 2
        better = err < self.best_err
        return replace(
            self,
            best=torch.where(better.unsqueeze(1), self.actions.detach(), self.best),
            best_err=torch.where(better, err, self.best_err),
            best_residual=torch.where(better, residual, self.best_residual),
            last_err=err,
        )

    def then(self, later: "Trace") -> "Trace":
        """Two runs as one; Theseus prefers the later of two equally good iterates."""
        keep = self.best_err < later.best_err
        return replace(
            later,
            best=torch.where(keep.unsqueeze(1), self.best, later.best),
            best_err=torch.where(keep, self.best_err, later.best_err),
            best_residual=torch.where(keep, self.best_residual, later.best_residual),
            first_residual=self.first_residual,
            iterations=self.iterations + later.iterations,
        )
