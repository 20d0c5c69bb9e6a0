"""Trust-region trajectory optimization in a box, as Theseus's Levenberg–Marquardt.

It maximizes G(a) over −1 ≤ a ≤ 1, where the published optimizer takes steps of a length that
nothing adapts. With g = ∇G and a model B of −∇²G, a step over the free coordinates F solves

    (B_FF + λI) δ_F = g_F,        δ = 0 elsewhere,        a ← P(a + δ)

F leaves out what is at a bound and would leave the box (Bertsekas, "Projected Newton methods",
1982); P is the projection on the box. This is the Levenberg–Marquardt step with B in the place
of JᵀJ: G is no sum of squares, and the one residual −G gives JᵀJ a rank of one. B is built from
the gradients that the steps compute anyway: BFGS (Nocedal and Wright, "Numerical Optimization",
2006, section 6.1) that only shrinks B where G curves the wrong way, and so keeps it positive
definite. The damping λ is each row's own: ρ, the actual gain over the one that the model
promised, lowers or raises it, and a step that does not gain is undone (the same, section 10.3).

The curvature of G is much the same from one step of an episode to the next: B may be carried on.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import theseus as th
import torch
from jaxtyping import Bool, Float, Int
from theseus.optimizer import OptimizerInfo
from theseus.optimizer.linear import LinearSolver
from torch import Tensor

from difftori.compiling.cuda_graphs import NO_GRAPHS, CudaGraphs
from difftori.solvers.iterations import Iterations
from difftori.solvers.plan_layer import ResidualLinearization
from difftori.solvers.quasi_newton import (
    active_set_step,
    definite_bfgs,
    first_damping,
    free_coordinates,
    softly_bound_step,
)

RAISE, LOWER = 4.0, 4.0
"""factors of the damping after a poor and after a good step"""
POOR, GOOD = 0.25, 0.75
"""a step's actual gain as a share of the promised one, below and above which λ changes"""


class ActiveSetSolver(LinearSolver):
    """Solves for the step of the free coordinates; the optimizer says which they are, and B."""

    linearization: ResidualLinearization

    def __init__(self, objective: th.Objective, **kwargs: Any) -> None:
        super().__init__(objective, linearization_cls=ResidualLinearization)
        self.curvature = torch.empty(0)
        self.free = torch.empty(0)
        self.bound_softness = 0.0

    def solve(  # type: ignore[override]
        self, damping: Float[Tensor, "B"], **kwargs: Any
    ) -> Float[Tensor, "B D"]:
        problem = (self.curvature, damping, -self.linearization.J, self.free)
        delta = active_set_step(*problem)
        if self.bound_softness > 0:
            delta = delta + softly_bound_step(*problem, self.bound_softness)
        return delta


@dataclass(frozen=True)
class State:
    """Where the iterations stand, row by row."""

    actions: Float[Tensor, "B D"]
    G: Float[Tensor, "B"]
    gradient: Float[Tensor, "B D"]
    curvature: Float[Tensor, "B D D"]
    known: Bool[Tensor, "B"]
    """whether ``curvature`` says anything"""
    damping: Float[Tensor, "B"]
    first_return: Float[Tensor, "B"]
    stopped: Bool[Tensor, "B"]
    iterations: Int[Tensor, "B"]

    def rows(self, index: Int[Tensor, "R"]) -> "State":
        return State(**{name: value[index] for name, value in vars(self).items()})

    def damping_of_curvature(self) -> Float[Tensor, "B"]:
        """λ, at most a tenth of B where B is known: B says how long a step is."""
        size = self.curvature.diagonal(dim1=1, dim2=2).mean(dim=1)
        return torch.where(self.known, self.damping.minimum(0.1 * size), self.damping)


@dataclass
class TrustRegionInfo(OptimizerInfo):
    """What Theseus hands back from this optimizer."""

    state: State | None


class TrustRegion(th.LevenbergMarquardt):
    """Theseus's Levenberg–Marquardt with curvature, an active set and a damping for each row."""

    linear_solver: ActiveSetSolver

    def __init__(
        self, *args: Any, gain_tolerance: float, graphs: CudaGraphs = NO_GRAPHS, **kwargs: Any
    ) -> None:
        """A row stops when its step promises less than ``gain_tolerance`` of the gain so far.

        ``graphs`` records the iterations.
        """
        super().__init__(*args, **kwargs)
        self._gain_tolerance = gain_tolerance
        self._recorded_start = graphs(self._start, "the planner's start")
        self._iterate = Iterations(self._next_state, graphs, "the planner's iterations")

    def _optimize_impl(self, **kwargs: Any) -> TrustRegionInfo:  # type: ignore[override]
        """Iterate, from a ``state`` or anew, or take the differentiated steps from ``frozen``."""
        self.reset(backward_mode=th.BackwardMode.UNROLL)
        if "frozen" in kwargs:
            self._differentiated(kwargs["frozen"], kwargs["count"], kwargs["bound_softness"])
            return self._info(None)
        actions, z = self.ordering[0].tensor.detach(), self.objective.aux_vars["latent"].tensor
        with torch.no_grad():
            state = kwargs["state"] or self._recorded_start(actions, z, kwargs["curvature"])
            state = self._iterate(state, z, kwargs["count"], may_stop=True)
        self.ordering[0].update(state.actions)
        return self._info(state)

    def _info(self, state: State | None) -> TrustRegionInfo:
        actions = self.ordering[0].tensor
        status = np.full(len(actions), th.NonlinearOptimizerStatus.MAX_ITERATIONS)
        return TrustRegionInfo(best_solution=None, status=status, state=state)

    def _linearize_at(
        self, actions: Float[Tensor, "B D"], z: Float[Tensor, "B Z"]
    ) -> tuple[Float[Tensor, "B"], Float[Tensor, "B D"]]:
        self.ordering[0].update(actions)
        self.objective.aux_vars["latent"].update(z)
        return self._linearize()

    def _linearize(self) -> tuple[Float[Tensor, "B"], Float[Tensor, "B D"]]:
        """G and its gradient at the present iterate."""
        linearization = self.linear_solver.linearization
        linearization.linearize()
        return -linearization.r.squeeze(1), -linearization.J

    def _start(
        self,
        actions: Float[Tensor, "B D"],
        z: Float[Tensor, "B Z"],
        curvature: Float[Tensor, "B D D"] | None,
    ) -> State:
        G, gradient = self._linearize_at(actions, z)
        if curvature is None:
            curvature = actions.new_zeros(*actions.shape, actions.shape[1])
        known = curvature.diagonal(dim1=1, dim2=2).sum(dim=1) > 0
        state = State(
            actions=actions,
            G=G,
            gradient=gradient,
            curvature=curvature,
            known=known,
            damping=first_damping(gradient, free_coordinates(actions, gradient)),
            first_return=G,
            stopped=torch.zeros_like(known),
            iterations=torch.zeros_like(G, dtype=torch.long),
        )
        return replace(state, damping=state.damping_of_curvature())

    def _next_state(self, state: State, z: Float[Tensor, "B Z"]) -> State:
        """One step; kept in the rows where it gains."""
        solver = self.linear_solver
        solver.linearization.J = -state.gradient
        solver.curvature, solver.bound_softness = state.curvature, 0.0
        solver.free = free_coordinates(state.actions, state.gradient)
        self._damping = state.damping
        delta = self.compute_delta()
        trial = (state.actions + delta).clamp(-1, 1)
        step = trial - state.actions
        Bs = torch.bmm(state.curvature, step.unsqueeze(2)).squeeze(2)
        promised = (step * (state.gradient - Bs / 2)).sum(dim=1)
        # δᵀg / 2 is what the model promises at least before the projection
        hope = (delta * state.gradient).sum(dim=1) / 2
        visible = torch.finfo(state.G.dtype).eps * state.G.abs()  # less is rounding
        least = (self._gain_tolerance * (state.G - state.first_return)).maximum(visible)
        stopped = state.stopped | (hope <= least)
        step = step.masked_fill(stopped.unsqueeze(1), 0.0)
        trial = torch.where(stopped.unsqueeze(1), state.actions, trial)

        G, gradient = self._linearize_at(trial, z)
        better = (G > state.G) & torch.isfinite(G + gradient.sum(dim=1))
        ratio = torch.where(better & (promised > 0), (G - state.G) / promised, -1.0)
        curvature, known = definite_bfgs(
            state.curvature, state.known, step, state.gradient - gradient
        )
        factor = torch.where(ratio > POOR, torch.where(ratio > GOOD, 1 / LOWER, 1.0), RAISE)
        kept = better.unsqueeze(1)
        return State(
            actions=torch.where(kept, trial, state.actions),
            G=torch.where(better, G, state.G),
            gradient=torch.where(kept, gradient, state.gradient),
            curvature=curvature,
            known=known,
            damping=torch.where(stopped, state.damping, state.damping * factor),
            first_return=state.first_return,
            stopped=stopped,
            iterations=state.iterations + ~stopped,
        )

    def _differentiated(self, frozen: State, count: int, bound_softness: float) -> None:
        """Steps with a graph from ``frozen``, whose B and λ are constants in them."""
        solver, actions = self.linear_solver, self.ordering[0]
        solver.bound_softness = bound_softness
        solver.curvature, self._damping = frozen.curvature, frozen.damping
        for _ in range(count):
            _, gradient = self._linearize()
            solver.free = free_coordinates(actions.tensor.detach(), gradient.detach())
            # what is at a bound stays there, whatever it was a function of
            base = torch.where(solver.free, actions.tensor, actions.tensor.detach())
            moved = base + self.compute_delta()
            actions.update(moved + (moved.clamp(-1, 1) - moved).detach())
