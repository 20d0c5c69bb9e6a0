"""Trajectory optimization as a Theseus Levenberg–Marquardt layer; the only file that imports it.

The problem has one scalar residual r(a) = c − G(a) over the flat plan a ∈ R^(H·A). With
J = dr/da = −∇G, Levenberg–Marquardt's step solves (JᵀJ + λI) δ = −Jᵀ r. JᵀJ has rank one, so
the same step is had without a factorization, in the residual's space:

    δ = −Jᵀ (J Jᵀ + λ)⁻¹ r,        a ← a + s δ

which is one division and cannot fail while J and r are finite. ``published`` keeps the way of
the published code (autodiff cost, Cholesky, layer rebuilt for each plan) as the reference.

Theseus: Pineda et al., "Theseus: A Library for Differentiable Nonlinear Optimization",
NeurIPS 2022, arXiv 2207.09442.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

with warnings.catch_warnings():
    # CHOLMOD is a sparse solver that nothing here uses; Theseus warns that it is missing.
    warnings.filterwarnings("ignore", message=".*[Cc]holmod.*|.*CHOLMOD.*")
    import theseus as th
    from theseus.optimizer import Linearization, OptimizerInfo
    from theseus.optimizer.linear import LinearSolver

ReturnFunction = Callable[[Tensor, Tensor], Tensor]
"""(flat plans ``[B, H·A]``, latents ``[B, Z]``) to returns ``[B, 1]``; rows independent"""
GradientFunction = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""the same to returns and their gradients ``[B, H·A]``, both differentiable"""


@dataclass(frozen=True)
class SolverOptions:
    max_iterations: int
    step_size: float
    """s, applied to each step"""
    damping: float
    """λ"""
    value_offset: float
    """c"""
    rel_err_tolerance: float
    """a row stops when its squared residual changes by less than this share; 0: never"""
    backward_mode: str
    """``truncated`` or ``unroll``"""
    backward_num_iterations: int
    """iterations at the end that ``truncated`` differentiates"""


@dataclass(frozen=True)
class Solution:
    """What the solver did with B plans."""

    last: Float[Tensor, "B D"]
    """the last iterate, with its graph when one was asked for"""
    best: Float[Tensor, "B D"]
    """the iterate with the smallest squared residual, detached"""
    iterations: Int[Tensor, "B"]
    """steps taken"""
    first_return: Float[Tensor, "B"]
    """G of the first guess"""
    best_return: Float[Tensor, "B"]
    """G of ``best``"""
    solved: Bool[Tensor, "B"]
    """False where a number in the solve was not finite, or the linear solver failed"""


class PlanCost(th.CostFunction):
    """r(a) = c − G(a, z), with its Jacobian from one forward and one gradient.

    The Jacobian carries a graph when gradients are enabled, so that a loss on an iterate can
    be differentiated through the steps.
    """

    def __init__(
        self,
        return_fn: ReturnFunction,
        gradient_fn: GradientFunction,
        actions: th.Vector,
        latent: th.Variable,
        offset: float,
    ) -> None:
        weight = th.ScaleCostWeight(actions.tensor.new_ones(1, 1))
        super().__init__(weight, name="plan_cost")
        self.actions = actions
        self.latent = latent
        self.register_optim_vars(["actions"])
        self.register_aux_vars(["latent"])
        self._return_fn = return_fn
        self._gradient_fn = gradient_fn
        self._offset = offset

    def dim(self) -> int:
        return 1

    def error(self) -> Float[Tensor, "B 1"]:
        return self._offset - self._return_fn(self.actions.tensor, self.latent.tensor)

    def jacobians(self) -> tuple[list[Float[Tensor, "B 1 D"]], Float[Tensor, "B 1"]]:
        G, gradient = self._gradient_fn(self.actions.tensor, self.latent.tensor)
        return [-gradient.unsqueeze(1)], self._offset - G

    def _copy_impl(self, new_name: str | None = None) -> "PlanCost":
        actions, latent = self.actions.copy(), self.latent.copy()
        return PlanCost(self._return_fn, self._gradient_fn, actions, latent, self._offset)


def autograd_gradient(return_fn: ReturnFunction) -> GradientFunction:
    """The gradient of any return function, by autograd; differentiable if gradients are on."""

    def return_and_gradient(actions: Tensor, latent: Tensor) -> tuple[Tensor, Tensor]:
        with_graph = torch.is_grad_enabled()
        if not with_graph:
            latent = latent.detach()
        if not (with_graph and actions.requires_grad):
            actions = actions.detach().requires_grad_()
        with torch.enable_grad():
            G = return_fn(actions, latent)
            (gradient,) = torch.autograd.grad(G.sum(), actions, create_graph=with_graph)
        return (G if with_graph else G.detach()), gradient

    return return_and_gradient


class ResidualLinearization(Linearization):
    """J and r of the one scalar residual, and no products of them."""

    J: Float[Tensor, "B D"]
    r: Float[Tensor, "B 1"]

    def _linearize_jacobian_impl(self) -> None:
        (cost,) = self.objective._get_jacobians_iter()
        (jacobian,), self.r = cost.jacobians()  # the cost's weight is 1
        self.J = jacobian.squeeze(1)

    def _linearize_hessian_impl(self, _detach_hessian: bool = False) -> None:
        self._linearize_jacobian_impl()

    def _ata_impl(self) -> Tensor:
        return self.J.unsqueeze(2) * self.J.unsqueeze(1)

    def _atb_impl(self) -> Tensor:
        return (-self.J * self.r).unsqueeze(2)

    def Av(self, v: Tensor) -> Tensor:  # noqa: N802, Theseus's name
        return (self.J * v).sum(dim=1, keepdim=True)

    def diagonal_scaling(self, v: Tensor) -> Tensor:
        return v * self.J.square()


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
class _Trace:
    """What one loop of iterations saw, row by row; squared residuals as Theseus halves them."""

    best: Tensor
    best_err: Tensor
    best_residual: Tensor
    first_residual: Tensor
    iterations: Tensor


@dataclass
class _Info(OptimizerInfo):
    """What Theseus hands back from an optimizer, and the trace."""

    trace: _Trace


class LevenbergMarquardt(th.LevenbergMarquardt):
    """Theseus's, with fixed damping, for plans.

    The same steps, stopping rule and best iterate; but the residual after a step is the one
    that the next linearization computes anyway, rows stop on their own, nothing is copied to
    the CPU, and the loop waits for the device only on a CPU, where that is free.
    """

    linear_solver: ResidualSpaceSolver

    def _optimize_impl(self, **kwargs: Any) -> "_Info":  # type: ignore[override]
        kwargs["backward_mode"] = th.BackwardMode.resolve(kwargs["backward_mode"])
        self.reset(**kwargs)
        with_graph, without_graph = self._split_backward_iters(**kwargs)
        trace = None
        if without_graph:
            with torch.no_grad():
                trace = self._run_loop(without_graph, keep_last=False)
        trace = _merge(trace, self._run_loop(with_graph, keep_last=True))
        status = np.full(len(trace.best), th.NonlinearOptimizerStatus.MAX_ITERATIONS)
        return _Info(best_solution={"actions": trace.best}, status=status, trace=trace)

    def _run_loop(self, num_iterations: int, *, keep_last: bool) -> _Trace:
        """Take up to ``num_iterations`` steps; ``keep_last`` scores the final iterate too."""
        actions = self.ordering[0]
        trace: _Trace | None = None
        last_err = torch.empty(0)
        rows_stop = max(self.params.abs_err_tolerance, self.params.rel_err_tolerance) > 0
        converged = torch.zeros(len(actions.tensor), dtype=torch.bool, device=actions.device)
        for i in range(num_iterations + keep_last):
            stepping = i < num_iterations
            if stepping:
                self.linear_solver.linearization.linearize()
                residual = self.linear_solver.linearization.r
            else:
                with torch.no_grad():
                    residual = self.objective.error()
            with torch.no_grad():
                residual = residual.detach().squeeze(1)
                err = residual.square() / 2
                if trace is None:
                    trace = _first_trace(actions.tensor.detach(), err, residual)
                else:
                    _update_trace(trace, actions.tensor.detach(), err, residual)
                    if rows_stop:
                        converged = converged | self._has_converged(err, last_err)
                last_err = err
                if converged.device.type == "cpu" and rows_stop and bool(converged.all()):
                    break
            if stepping:
                delta = self.compute_delta() * self.params.step_size
                if rows_stop:
                    delta = delta.masked_fill(converged.unsqueeze(1), 0.0)
                actions.update(actions.tensor + delta)
                trace.iterations += ~converged
        assert trace is not None
        return trace

    def _has_converged(self, err: Tensor, last_err: Tensor) -> Bool[Tensor, "B"]:
        change = (last_err - err).abs()
        absolute, relative = self.params.abs_err_tolerance, self.params.rel_err_tolerance
        return (change < absolute) | (change / last_err < relative)


def _first_trace(actions: Tensor, err: Tensor, residual: Tensor) -> _Trace:
    iterations = torch.zeros_like(err, dtype=torch.long)
    return _Trace(actions, err, residual, residual, iterations)


def _update_trace(trace: _Trace, actions: Tensor, err: Tensor, residual: Tensor) -> None:
    better = err < trace.best_err
    trace.best = torch.where(better.unsqueeze(1), actions, trace.best)
    trace.best_err = torch.where(better, err, trace.best_err)
    trace.best_residual = torch.where(better, residual, trace.best_residual)


def _merge(before: _Trace | None, after: _Trace) -> _Trace:
    """Two loops as one; Theseus prefers the later of two equally good iterates."""
    if before is None:
        return after
    keep = before.best_err < after.best_err
    return _Trace(
        best=torch.where(keep.unsqueeze(1), before.best, after.best),
        best_err=torch.where(keep, before.best_err, after.best_err),
        best_residual=torch.where(keep, before.best_residual, after.best_residual),
        first_residual=before.first_residual,
        iterations=before.iterations + after.iterations,
    )


class TrajectorySolver:
    """max_a G(a, z) from a first guess, by our own insides of the Theseus layer.

    One layer is built for each length of the plan and used for every batch of that length.
    """

    def __init__(
        self,
        return_fn: ReturnFunction,
        options: SolverOptions,
        gradient_fn: GradientFunction | None = None,
    ) -> None:
        """Without a ``gradient_fn`` the gradient is autograd's."""
        self._return_fn = return_fn
        self._gradient_fn = gradient_fn or autograd_gradient(return_fn)
        self._options = options
        self._layers: dict[tuple[int, int, torch.dtype, torch.device], th.TheseusLayer] = {}

    def solve(self, first_guess: Float[Tensor, "B D"], z: Float[Tensor, "B Z"]) -> Solution:
        """Optimize B plans; ``last`` has a graph to z and the weights if gradients are on."""
        layer = self._layer(first_guess, z)
        inputs = {"actions": first_guess.detach(), "latent": z}
        values, info = layer.forward(inputs, optimizer_kwargs=_optimizer_kwargs(self._options))
        # The layer outlives the plan; the plan's graph should not.
        layer.objective.update({"actions": first_guess.detach(), "latent": z.detach()})
        trace, offset = cast(_Info, info).trace, self._options.value_offset
        return Solution(
            last=values["actions"],
            best=trace.best,
            iterations=trace.iterations,
            first_return=offset - trace.first_residual,
            best_return=offset - trace.best_residual,
            solved=torch.isfinite(values["actions"].detach().sum(1) + trace.best_residual),
        )

    def _layer(self, actions: Tensor, z: Tensor) -> th.TheseusLayer:
        key = (actions.shape[1], z.shape[1], actions.dtype, actions.device)
        if key not in self._layers:
            actions_var = th.Vector(tensor=torch.zeros_like(actions), name="actions")
            latent_var = th.Variable(tensor=torch.zeros_like(z), name="latent")
            offset = self._options.value_offset
            cost = PlanCost(self._return_fn, self._gradient_fn, actions_var, latent_var, offset)
            objective = th.Objective(dtype=actions.dtype)
            objective.to(device=actions.device)
            objective.add(cost)
            optimizer = LevenbergMarquardt(
                objective, linear_solver_cls=ResidualSpaceSolver, **_tolerances(self._options)
            )
            self._layers[key] = th.TheseusLayer(optimizer, vectorize=False)
        return self._layers[key]


class PublishedSolver:
    """The published way, kept as the reference: slow, and Cholesky can fail in it."""

    def __init__(self, return_fn: ReturnFunction, options: SolverOptions) -> None:
        self._return_fn = return_fn
        self._options = options

    def solve(self, first_guess: Float[Tensor, "B D"], z: Float[Tensor, "B Z"]) -> Solution:
        """As ``TrajectorySolver.solve``; ``iterations`` counts the batch's, not each row's."""
        offset = self._options.value_offset

        def residual(optim_vars: Any, aux_vars: Any) -> Tensor:
            return offset - self._return_fn(optim_vars[0].tensor, aux_vars[0].tensor)

        objective = th.Objective(dtype=first_guess.dtype)
        objective.to(device=first_guess.device)
        objective.add(
            th.AutoDiffCostFunction(
                [th.Vector(tensor=torch.zeros_like(first_guess), name="actions")],
                residual,
                1,
                cost_weight=th.ScaleCostWeight(first_guess.new_ones(1, 1)),
                aux_vars=[th.Variable(tensor=torch.zeros_like(z), name="latent")],
                name="plan_cost",
            )
        )
        optimizer = th.LevenbergMarquardt(
            objective, _CountingCholesky, **_tolerances(self._options)
        )
        linear_solver = cast(_CountingCholesky, optimizer.linear_solver)
        layer = th.TheseusLayer(optimizer).to(device=first_guess.device, dtype=first_guess.dtype)
        inputs = {"actions": first_guess.detach(), "latent": z}
        kwargs = _optimizer_kwargs(self._options) | {"track_best_solution": True}
        solved = True
        try:
            values, info = layer.forward(inputs, optimizer_kwargs=kwargs)
            best_solution = cast(dict[str, Tensor], info.best_solution)
            last, best = values["actions"], best_solution["actions"].to(z.device)
            # without a graph Theseus only warns of a failed factorization
            solved = not (info.status == th.NonlinearOptimizerStatus.FAIL).any()
        except RuntimeError as error:
            if "linear optimizer" not in str(error):
                raise
            last = best = first_guess.detach()
            solved = False
        with torch.no_grad():
            first_return = self._return_fn(first_guess, z).squeeze(1)
            best_return = self._return_fn(best, z).squeeze(1)
        finite = torch.isfinite(last.detach().sum(1) + best_return)
        return Solution(
            last=last,
            best=best,
            iterations=torch.full_like(finite, linear_solver.calls, dtype=torch.long),
            first_return=first_return,
            best_return=best_return,
            solved=finite & solved,
        )


class _CountingCholesky(th.CholeskyDenseSolver):
    """Theseus's own, counting its calls: one for each iteration."""

    calls = 0

    def solve(self, *args: Any, **kwargs: Any) -> Tensor:
        self.calls += 1
        return super().solve(*args, **kwargs)


def _tolerances(options: SolverOptions) -> dict[str, Any]:
    relative = options.rel_err_tolerance
    return {
        "max_iterations": options.max_iterations,
        "step_size": options.step_size,
        "rel_err_tolerance": relative,
        "abs_err_tolerance": 1e-10 if relative else 0.0,
    }


def _optimizer_kwargs(options: SolverOptions) -> dict[str, Any]:
    return {
        "damping": options.damping,
        "backward_mode": options.backward_mode,
        "backward_num_iterations": min(options.backward_num_iterations, options.max_iterations),
    }
