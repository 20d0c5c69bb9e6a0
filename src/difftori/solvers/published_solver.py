"""The published way to optimize a plan, kept as the reference: slow, and it can fail.

Theseus's own cost by autodiff, its Cholesky of a matrix of rank one, and a layer for each plan.
"""

from typing import Any, cast

import theseus as th
import torch
from jaxtyping import Float
from torch import Tensor

from difftori.solvers.solution import ReturnFunction, Solution, SolverOptions


class PublishedSolver:
    """A layer for each call of ``solve``; a failure of Cholesky is a status."""

    def __init__(self, return_fn: ReturnFunction, options: SolverOptions) -> None:
        self._return_fn = return_fn
        self._options = options

    def solve(self, first_guess: Float[Tensor, "B D"], z: Float[Tensor, "B Z"]) -> Solution:
        """As ``TrajectorySolver.solve``, but rows are not apart.

        ``iterations`` counts the batch's, and where one row fails all do.
        """
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
            objective, _CountingCholesky, **self._options.optimizer_arguments()
        )
        linear_solver = cast(_CountingCholesky, optimizer.linear_solver)
        layer = th.TheseusLayer(optimizer).to(device=first_guess.device, dtype=first_guess.dtype)
        inputs = {"actions": first_guess.detach(), "latent": z}
        kwargs = self._options.solve_arguments() | {"track_best_solution": True}
        solved = True
        try:
            values, info = layer.forward(inputs, optimizer_kwargs=kwargs)
            best_solution = cast(dict[str, Tensor], info.best_solution)
            last, best = values["actions"], best_solution["actions"].to(z.device)
            # without a graph Theseus only warns of a failed factorization
            solved = not (info.status == th.NonlinearOptimizerStatus.FAIL).any()
        except (RuntimeError, AssertionError):  # the latter where Theseus merges the statuses
            if not linear_solver.failed:
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
    failed = False
    """whether the last call raised"""

    def solve(self, *args: Any, **kwargs: Any) -> Tensor:
        self.calls += 1
        self.failed = True
        step = super().solve(*args, **kwargs)
        self.failed = False
        return step
