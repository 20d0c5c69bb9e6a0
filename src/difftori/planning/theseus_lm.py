"""Trajectory optimization as a Theseus Levenberg–Marquardt layer.

The problem has one scalar residual r(a) = c − G(a) over the flat plan a ∈ R^(H·A). With
J = dr/da = −∇G, Levenberg–Marquardt's step solves (JᵀJ + λI) δ = −Jᵀ r. JᵀJ has rank one, so
the same step is had without a factorization, in the residual's space:

    δ = −Jᵀ (J Jᵀ + λ)⁻¹ r,        a ← a + s δ

which is one division and cannot fail while J and r are finite.
"""

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import theseus as th
import torch
from jaxtyping import Bool, Float, Int
from theseus.optimizer import OptimizerInfo
from theseus.optimizer.linear import LinearSolver
from torch import Tensor

from difftori.planning.plan_layer import PlanLayers, ResidualLinearization
from difftori.planning.solution import (
    GradientFunction,
    ReturnFunction,
    Solution,
    SolverOptions,
    autograd_gradient,
)

LOOK_EVERY = 10
"""iterations between looks at whether all rows have stopped, where a look waits for the device"""


def residual_space_step(
    J: Float[Tensor, "B D"], r: Float[Tensor, "B 1"], damping: float
) -> Float[Tensor, "B D"]:
    """δ = −Jᵀ (J Jᵀ + λ)⁻¹ r, and 0 where both J and λ are."""
    scale = J.square().sum(dim=1, keepdim=True) + damping
    if damping > 0:
        return -J * (r / scale)
    flat = scale == 0
    return -J * (r / scale.masked_fill(flat, 1.0)).masked_fill(flat, 0.0)


class ResidualSpaceSolver(LinearSolver):
    """Solves the damped normal equations of a scalar residual by one division."""

    linearization: ResidualLinearization

    def __init__(self, objective: th.Objective, **kwargs: Any) -> None:
        super().__init__(objective, linearization_cls=ResidualLinearization)

    def solve(  # type: ignore[override]
        self, damping: float | None = None, **kwargs: Any
    ) -> Float[Tensor, "B D"]:
        return residual_space_step(self.linearization.J, self.linearization.r, damping or 0.0)


@dataclass
class Trace:
    """What a run of iterations has seen, row by row; squared residuals as Theseus halves them."""

    best: Float[Tensor, "B D"]
    best_err: Float[Tensor, "B"]
    best_residual: Float[Tensor, "B"]
    first_residual: Float[Tensor, "B"]
    last_err: Float[Tensor, "B"]
    stopped: Bool[Tensor, "B"]
    iterations: Int[Tensor, "B"]

    @classmethod
    def start(cls, actions: Float[Tensor, "B D"], residual: Float[Tensor, "B"]) -> "Trace":
        err = residual.square() / 2
        stopped, iterations = torch.zeros_like(err).bool(), torch.zeros_like(err).long()
        return cls(actions, err, residual, residual, err, stopped, iterations)

    def see(self, actions: Float[Tensor, "B D"], residual: Float[Tensor, "B"]) -> None:
        """One more iterate; of equally good ones the first is the best."""
        self.last_err = residual.square() / 2
        better = self.last_err < self.best_err
        self.best = torch.where(better.unsqueeze(1), actions, self.best)
        self.best_err = torch.where(better, self.last_err, self.best_err)
        self.best_residual = torch.where(better, residual, self.best_residual)

    def then(self, later: "Trace") -> "Trace":
        """Two runs as one; Theseus prefers the later of two equally good iterates."""
        keep = self.best_err < later.best_err
        return Trace(
            best=torch.where(keep.unsqueeze(1), self.best, later.best),
            best_err=torch.where(keep, self.best_err, later.best_err),
            best_residual=torch.where(keep, self.best_residual, later.best_residual),
            first_residual=self.first_residual,
            last_err=later.last_err,
            stopped=later.stopped,
            iterations=self.iterations + later.iterations,
        )


@dataclass
class PlanInfo(OptimizerInfo):
    """What Theseus hands back from an optimizer of plans."""

    trace: Trace


class LevenbergMarquardt(th.LevenbergMarquardt):
    """Theseus's, with fixed damping, for plans.

    The same steps, stopping rule and best iterate; but the residual after a step is the one
    that the next linearization computes anyway, rows stop on their own, and nothing is copied to
    the CPU.
    """

    linear_solver: ResidualSpaceSolver

    def _optimize_impl(self, **kwargs: Any) -> PlanInfo:  # type: ignore[override]
        kwargs["backward_mode"] = th.BackwardMode.resolve(kwargs["backward_mode"])
        self.reset(**kwargs)
        with_graph, without_graph = self._split_backward_iters(**kwargs)
        before = None
        if without_graph:
            with torch.no_grad():
                before, _ = self._iterate(without_graph)
        trace, all_stopped = self._iterate(with_graph)
        if not all_stopped:
            with torch.no_grad():
                trace.see(self._actions, self.objective.error().squeeze(1))
        trace = before.then(trace) if before else trace
        status = np.full(len(trace.best), th.NonlinearOptimizerStatus.MAX_ITERATIONS)
        return PlanInfo(best_solution={"actions": trace.best}, status=status, trace=trace)

    def _iterate(self, count: int) -> tuple[Trace, bool]:
        """Take up to ``count`` steps, and tell whether all rows stopped before.

        The iterate after the last of ``count`` steps is not seen: its residual is not known yet.
        """
        trace = Trace.start(self._actions, self._linearized_residual())
        self._take_step(trace)
        look_every = 1 if trace.stopped.is_cpu else LOOK_EVERY
        for number in range(1, count):
            residual, err_before = self._linearized_residual(), trace.last_err
            trace.see(self._actions, residual)
            trace.stopped = trace.stopped | self._has_converged(trace.last_err, err_before)
            if number % look_every == 0 and bool(trace.stopped.all()):
                return trace, True
            self._take_step(trace)
        return trace, False

    @property
    def _actions(self) -> Float[Tensor, "B D"]:
        """The present iterate, without its graph."""
        return self.ordering[0].tensor.detach()

    def _linearized_residual(self) -> Float[Tensor, "B"]:
        """r of the present iterate, once its J is known too."""
        self.linear_solver.linearization.linearize()
        return self.linear_solver.linearization.r.detach().squeeze(1)

    def _take_step(self, trace: Trace) -> None:
        """a ← a + s δ, in the rows that have not stopped."""
        delta = self.compute_delta() * self.params.step_size
        delta = delta.masked_fill(trace.stopped.unsqueeze(1), 0.0)
        self.ordering[0].update(self.ordering[0].tensor + delta)
        trace.iterations += ~trace.stopped

    def _has_converged(
        self, err: Float[Tensor, "B"], err_before: Float[Tensor, "B"]
    ) -> Bool[Tensor, "B"]:
        change = (err_before - err).abs()
        absolute, relative = self.params.abs_err_tolerance, self.params.rel_err_tolerance
        return (change < absolute) | (change / err_before < relative)


class TrajectorySolver:
    """max_a G(a, z) from a first guess, by our own insides of the Theseus layer."""

    def __init__(
        self,
        return_fn: ReturnFunction,
        options: SolverOptions,
        gradient_fn: GradientFunction | None = None,
        optimizer: type[th.LevenbergMarquardt] = LevenbergMarquardt,
    ) -> None:
        """Without a ``gradient_fn`` the gradient is autograd's.

        ``optimizer`` works on a ``PlanCost`` by a ``ResidualSpaceSolver`` and hands back a
        ``PlanInfo``.
        """
        self._options = options
        self._layers = PlanLayers(
            return_fn,
            gradient_fn or autograd_gradient(return_fn),
            optimizer=optimizer,
            linear_solver=ResidualSpaceSolver,
            offset=options.value_offset,
            **options.optimizer_arguments(),
        )

    def solve(self, first_guess: Float[Tensor, "B D"], z: Float[Tensor, "B Z"]) -> Solution:
        """Optimize B plans; ``last`` has a graph to z and the weights if gradients are on."""
        last, info = self._layers.forward(
            first_guess.detach(), z, **self._options.solve_arguments()
        )
        trace, offset = cast(PlanInfo, info).trace, self._options.value_offset
        return Solution(
            last=last,
            best=trace.best,
            iterations=trace.iterations,
            first_return=offset - trace.first_residual,
            best_return=offset - trace.best_residual,
            solved=torch.isfinite(last.detach().sum(1) + trace.best_residual),
        )
