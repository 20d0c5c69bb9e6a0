"""The differentiable planner of ``optimizer=trust_region``: one start, or several."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from difftori.compiling.compiler import EAGER, Compiler
from difftori.model.world_model import WorldModel
from difftori.planning.fast_gradient import gradient_function
from difftori.planning.returns import plan_return, policy_rollout
from difftori.planning.starts import best_candidates, samples, shifted
from difftori.planning.trajectory import optimized_plan
from difftori.sections import TrajectoryConfig
from difftori.solvers.solution import flatten, unflatten
from difftori.solvers.trust_region_solver import TrustRegionOptions, TrustRegionSolver
from difftori.types import Plan


class TrustRegionPlanner:
    """max_a G(a) over the box from the policy's rollout, and from other starts if asked for."""

    def __init__(
        self, model: WorldModel, config: TrajectoryConfig, compiler: Compiler = EAGER
    ) -> None:
        self._model = model
        self._config = config
        self._compiler = compiler
        self.return_limit = math.inf
        """its steps climb at any G"""
        spreads = {config.plan_spread, config.explore_spread}
        self._solvers = {spread: self._new_solver(spread) for spread in spreads}

    def _new_solver(self, spread: float) -> TrustRegionSolver:
        config = self._config
        options = TrustRegionOptions(
            iterations=config.trust_region_iterations,
            backward_mode=config.backward_mode,
            backward_num_iterations=config.backward_num_iterations,
            bound_softness=config.bound_softness,
        )
        gradient = gradient_function(self._model, config, self._compiler, spread)
        return TrustRegionSolver(
            partial(self._return, spread=spread), options, gradient, self._compiler.graphs
        )

    def plan(
        self,
        obs: Tensor,
        *,
        horizon: int,
        explore: bool,
        generators: Sequence[torch.Generator],
        update_step: int = 0,
        carry: Float[Tensor, "B C"] | None = None,
        differentiate: bool = False,
    ) -> Plan:
        """Plan for B observations ``[B, *O]``, each with its own generator of noise.

        With ``differentiate``, ``differentiable_action`` is the winner's first action with a
        graph to encoder, dynamics, reward and latent critics. ``carry`` is the last step's in
        the same episode, None at its start: its plan and its curvature. ``update_step`` decides
        the exploration noise.
        """
        spread = self._config.explore_spread if explore else self._config.plan_spread
        with torch.set_grad_enabled(differentiate):
            z = self._model.encode(obs)
            with torch.no_grad():
                policy_plan = flatten(policy_rollout(self._model, z, horizon))
                last_plan, curvature = _unpack(carry, policy_plan.shape[1])
                starts = self._starts(policy_plan, last_plan, z, spread, generators)
            solution = self._solvers[spread].solve(starts, z, curvature)
        noise_std = self._config.exploration_std(update_step) if explore else 0.0
        first_guess = unflatten(policy_plan, self._model.action_dim)
        plan = optimized_plan(solution, first_guess, generators, noise_std, differentiate)
        stats = {
            **plan.stats,
            "plan_gradient_norm": solution.gradient_norm,
            "plan_share_at_bound": solution.at_bound,
        }
        return replace(plan, carry=_pack(solution.best, solution.curvature), stats=stats)

    def _starts(
        self,
        policy_plan: Float[Tensor, "B D"],
        last_plan: Float[Tensor, "B D"] | None,
        z: Float[Tensor, "B Z"],
        spread: float,
        generators: Sequence[torch.Generator],
    ) -> Float[Tensor, "B K D"]:
        config, center = self._config, policy_plan
        candidates = [policy_plan.unsqueeze(1)]
        if last_plan is not None and config.last_plan_as_start:
            center = shifted(last_plan, policy_plan, self._model.action_dim)
            candidates.append(center.unsqueeze(1))
        if config.num_candidates > 0:
            candidates.append(samples(center, config.num_candidates, generators))
        return best_candidates(
            partial(self._return, spread=spread), torch.cat(candidates, dim=1), z, config.num_starts
        )

    def _return(
        self, flat_actions: Float[Tensor, "B D"], z: Float[Tensor, "B Z"], spread: float
    ) -> Float[Tensor, "B 1"]:
        actions = unflatten(flat_actions, self._model.action_dim)
        return plan_return(self._model, z, actions, self._config.discount, spread=spread)


def _pack(plan: Float[Tensor, "B D"], curvature: Float[Tensor, "B D D"]) -> Float[Tensor, "B C"]:
    """A row that went wrong must not spoil the next steps of its episode."""
    carry = torch.cat([plan, curvature.flatten(1)], dim=1)
    return torch.where(torch.isfinite(carry).all(dim=1, keepdim=True), carry, 0.0)


def _unpack(
    carry: Float[Tensor, "B C"] | None, dim: int
) -> tuple[Float[Tensor, "B D"] | None, Float[Tensor, "B D D"] | None]:
    if carry is None:
        return None, None
    return carry[:, :dim], carry[:, dim:].unflatten(1, (dim, dim))
