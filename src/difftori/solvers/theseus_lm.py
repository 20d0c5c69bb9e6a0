"""Trajectory optimization as a Theseus Levenberg–Marquardt layer.

The problem has one scalar residual r(a) = c − G(a) over the flat plan a ∈ R^(H·A). With
J = dr/da = −∇G, Levenberg–Marquardt's step solves (JᵀJ + λI) δ = −Jᵀ r. JᵀJ has rank one, so
the same step is had without a factorization, in the residual's space:

    δ = −Jᵀ (J Jᵀ + λ)⁻¹ r,        a ← a + s δ

which is one division and cannot fail while J and r are finite and λ > 0. c has to be above any G:
below it the steps climb G, and above it they descend.
"""

from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import theseus as th
import torch
from jaxtyping import Bool, Float, Int
from theseus.optimizer import OptimizerInfo
from theseus.optimizer.linear import LinearSolver
from torch import Tensor

from difftori.compiling.cuda_graphs import NO_GRAPHS, CudaGraphs
from difftori.solvers.iterations import Iterations
from difftori.solvers.plan_layer import PlanLayers, ResidualLinearization
from difftori.solvers.solution import (
    GradientFunction,
    ReturnFunction,
    Solution,
    SolverOptions,
    autograd_gradient,
)


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

    def solve(self, damping: float, **_: Any) -> Float[Tensor, "B D"]:  # type: ignore[override]
        return residual_space_step(self.linearization.J, self.linearization.r, damping)


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

    def __init__(self, *args: Any, graphs: CudaGraphs = NO_GRAPHS, **kwargs: Any) -> None:
        """``graphs`` records the iterations that need no gradient."""
        super().__init__(*args, **kwargs)
        self._recorded_start = graphs(self._first_step, "the planner's first iteration")
        self._recorded_end = graphs(self._see_last, "the planner's last look")
        self._more = Iterations(self._next_step, graphs, "the planner's iterations")

    def _optimize_impl(self, **kwargs: Any) -> PlanInfo:  # type: ignore[override]
        kwargs["backward_mode"] = th.BackwardMode.resolve(kwargs["backward_mode"])
        self.reset(**kwargs)
        with_graph, without_graph = self._split_backward_iters(**kwargs)
        actions, z = self.ordering[0].tensor, self.objective.aux_vars["latent"].tensor
        before = None
        if without_graph:
            with torch.no_grad():
                before = self._iterate(actions.detach(), z.detach(), without_graph)
            actions = before.actions
        trace = self._iterate(actions, z, with_graph)
        with torch.no_grad():
            seen = self._recorded_end(replace(trace, actions=trace.actions.detach()), z.detach())
        self._set(trace.actions, z)  # where Theseus looks for the solution
        trace = before.then(seen) if before else seen
        status = np.full(len(trace.best), th.NonlinearOptimizerStatus.MAX_ITERATIONS)
        return PlanInfo(best_solution=None, status=status, trace=trace)

    def _iterate(self, actions: Float[Tensor, "B D"], z: Float[Tensor, "B Z"], count: int) -> Trace:
        """Up to ``count`` steps; the last iterate is not seen: its residual is not known yet."""
        recorded = not torch.is_grad_enabled()
        trace = (self._recorded_start if recorded else self._first_step)(actions, z)
        may_stop = self.params.rel_err_tolerance > 0 or self.params.abs_err_tolerance > 0
        return self._more(trace, z, count - 1, may_stop=may_stop)

    def _first_step(self, actions: Float[Tensor, "B D"], z: Float[Tensor, "B Z"]) -> Trace:
        return self._moved(Trace.start(actions, self._linearized_residual(actions, z)))

    def _next_step(self, trace: Trace, z: Float[Tensor, "B Z"]) -> Trace:
        seen = trace.see(self._linearized_residual(trace.actions, z))
        converged = self._has_converged(seen.last_err, trace.last_err)
        return self._moved(replace(seen, stopped=seen.stopped | converged))

    def _see_last(self, trace: Trace, z: Float[Tensor, "B Z"]) -> Trace:
        self._set(trace.actions, z)
        return trace.see(self.objective.error().squeeze(1))

    def _linearized_residual(self, actions: Tensor, z: Tensor) -> Float[Tensor, "B"]:
        """r of ``actions``, once its J is known too."""
        self._set(actions, z)
        self.linear_solver.linearization.linearize()
        return self.linear_solver.linearization.r.detach().squeeze(1)

    def _set(self, actions: Float[Tensor, "B D"], z: Float[Tensor, "B Z"]) -> None:
        self.ordering[0].update(actions)
        self.objective.aux_vars["latent"].update(z)

    def _moved(self, trace: Trace) -> Trace:
        """a ← a + s δ, in the rows that have not stopped."""
        delta = self.compute_delta() * self.params.step_size
        delta = delta.masked_fill(trace.stopped.unsqueeze(1), 0.0)
        iterations = trace.iterations + ~trace.stopped
        return replace(trace, actions=trace.actions + delta, iterations=iterations)

    def _has_converged(
        self, err: Float[Tensor, "B"], err_before: Float[Tensor, "B"]
    ) -> Bool[Tensor, "B"]:
        change = (err_before - err).abs()
        absolute, relative = self.params.abs_err_tolerance, self.params.rel_err_tolerance
        return (change < absolute) | (change / err_before < relative)


class TrajectorySolver:
    """G(a, z) towards c from a first guess, by our own insides of the Theseus layer."""

    def __init__(
        self,
        return_fn: ReturnFunction,
        options: SolverOptions,
        gradient_fn: GradientFunction | None = None,
        graphs: CudaGraphs = NO_GRAPHS,
    ) -> None:
        """Without a ``gradient_fn`` the gradient is autograd's; ``graphs`` are of iterations."""
        self._options = options
        self._layers = PlanLayers(
            return_fn,
            gradient_fn or autograd_gradient(return_fn),
            optimizer=LevenbergMarquardt,
            linear_solver=ResidualSpaceSolver,
            offset=options.value_offset,
            graphs=graphs,
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
