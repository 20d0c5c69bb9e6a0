"""The best of several starts by the trust region, and the derivative of the solution."""

from dataclasses import dataclass, replace
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from difftori.compiling.cuda_graphs import NO_GRAPHS, CudaGraphs
from difftori.solvers.plan_layer import PlanLayers
from difftori.solvers.quasi_newton import definite_block, free_coordinates
from difftori.solvers.solution import (
    GradientFunction,
    ReturnFunction,
    Solution,
    autograd_gradient,
)
from difftori.solvers.trust_region import ActiveSetSolver, State, TrustRegion, TrustRegionInfo


@dataclass(frozen=True)
class TrustRegionOptions:
    iterations: int
    """at most, in all"""
    backward_mode: str
    """``truncated`` or ``implicit``"""
    backward_num_iterations: int
    """differentiated iterations of ``truncated``, taken from the winner"""
    bound_softness: float
    """μ, in units of G: see ``softly_bound_step``; 0 differentiates free coordinates alone"""
    start_iterations: int = 3
    """those of the iterations that every start takes; the best start takes the others"""
    gain_tolerance: float = 1e-3
    """a row stops when its step promises less than this share of the gain so far"""


@dataclass(frozen=True)
class TrustRegionSolution(Solution):
    gradient_norm: Float[Tensor, "B"]
    """‖∇G‖ over the free coordinates of ``best``: how far it is from stationary"""
    at_bound: Float[Tensor, "B"]
    """share of the coordinates of ``best`` at a bound"""
    curvature: Float[Tensor, "B D D"]
    """B at ``best``"""


class TrustRegionSolver:
    """max_a G(a, z) over the box from several starts, and the derivative of the best one."""

    def __init__(
        self,
        return_fn: ReturnFunction,
        options: TrustRegionOptions,
        gradient_fn: GradientFunction | None = None,
        graphs: CudaGraphs = NO_GRAPHS,
    ) -> None:
        """Without a ``gradient_fn`` the gradient is autograd's."""
        self._gradient_fn = gradient_fn or autograd_gradient(return_fn)
        self._options = options
        self._layers = PlanLayers(
            return_fn,
            self._gradient_fn,
            optimizer=TrustRegion,
            linear_solver=ActiveSetSolver,
            gain_tolerance=options.gain_tolerance,
            graphs=graphs,
        )

    def solve(
        self,
        starts: Float[Tensor, "B K D"],
        z: Float[Tensor, "B Z"],
        curvature: Float[Tensor, "B D D"] | None = None,
    ) -> TrustRegionSolution:
        """Refine K starts of each of B plans and keep the best of them.

        ``last`` is ``best`` after the differentiated steps, with a graph to z and the weights,
        if gradients are on.

        Args:
            curvature: B to begin with, from an earlier solution nearby.
        """
        options, (batch, count, _) = self._options, starts.shape
        start_iterations = min(options.start_iterations, options.iterations) if count > 1 else 0
        state = self._iterate(
            starts.detach().flatten(0, 1),
            z.detach().repeat_interleave(count, dim=0),
            start_iterations,
            curvature=None if curvature is None else curvature.repeat_interleave(count, dim=0),
        )
        scores = torch.where(torch.isfinite(state.G), state.G, -torch.inf).view(batch, count)
        first_row = torch.arange(0, batch * count, count, device=z.device)
        winner = state.rows(first_row + scores.argmax(dim=1))
        rest = options.iterations - start_iterations
        winner = self._iterate(winner.actions, z.detach(), rest, state=winner)
        last = self._differentiate(winner, z) if torch.is_grad_enabled() else winner.actions
        free = free_coordinates(winner.actions, winner.gradient)
        return TrustRegionSolution(
            last=last,
            best=winner.actions,
            iterations=winner.iterations,
            first_return=state.first_return[first_row],
            best_return=winner.G,
            solved=torch.isfinite(winner.G + (last.detach() + winner.gradient).sum(dim=1)),
            gradient_norm=(winner.gradient * free).norm(dim=1),
            at_bound=(winner.actions.abs() >= 1).to(z.dtype).mean(dim=1),
            curvature=winner.curvature,
        )

    def _iterate(
        self,
        actions: Float[Tensor, "R D"],
        z: Float[Tensor, "R Z"],
        count: int,
        *,
        curvature: Float[Tensor, "R D D"] | None = None,
        state: State | None = None,
    ) -> State:
        _, info = self._layers.forward(
            actions,
            z,
            count=count,
            curvature=curvature,
            state=state,
        )
        return cast(State, cast(TrustRegionInfo, info).state)

    def _differentiate(self, winner: State, z: Float[Tensor, "B Z"]) -> Float[Tensor, "B D"]:
        """The winner as a function of z and the weights.

        ``truncated`` takes steps of the solver; ``implicit`` takes one with the exact Hessian in
        the place of B: at an optimum that is da = −(∇²G)⁻¹ ∂∇G over the free coordinates.
        """
        options, count = self._options, self._options.backward_num_iterations
        # where undone steps had raised λ, it would hide what B says
        damping = winner.damping_of_curvature()
        curvature = winner.curvature
        if options.backward_mode == "implicit":
            free = free_coordinates(winner.actions, winner.gradient)
            curvature = definite_block(self.hessian(winner.actions, z.detach()).neg(), free)
            damping, count = torch.zeros_like(damping), 1
        return self._layers.forward(
            winner.actions,
            z,
            frozen=replace(winner, curvature=curvature, damping=damping),
            count=count,
            bound_softness=options.bound_softness,
        )[0]

    def hessian(
        self, actions: Float[Tensor, "B D"], z: Float[Tensor, "B Z"]
    ) -> Float[Tensor, "B D D"]:
        """∇²G: row i of every matrix from one copy of the batch, all copies at once."""
        batch, dim = actions.shape
        with torch.enable_grad():
            copies = actions.detach().repeat_interleave(dim, dim=0).requires_grad_()
            gradient = self._gradient_fn(copies, z.repeat_interleave(dim, dim=0))[1]
            entries = gradient.view(batch, dim, dim).diagonal(dim1=1, dim2=2)
            (rows,) = torch.autograd.grad(entries.sum(), copies)
        hessian = rows.view(batch, dim, dim)
        return (hessian + hessian.transpose(1, 2)) / 2
