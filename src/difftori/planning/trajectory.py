"""The differentiable planner: trajectory optimization over the world model (DiffTORI, sec. 4.1)."""

from collections.abc import Sequence
from dataclasses import fields
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from difftori.compiling.compiler import EAGER, Compiler
from difftori.model.world_model import WorldModel
from difftori.planning.fast_gradient import gradient_function
from difftori.planning.noise import normal
from difftori.planning.returns import plan_return, policy_rollout
from difftori.sections import TrajectoryConfig
from difftori.solvers.published_solver import PublishedSolver
from difftori.solvers.solution import Solution, SolverOptions, flatten, unflatten
from difftori.solvers.theseus_lm import TrajectorySolver
from difftori.types import Plan


class TrajectoryPlanner:
    """G(clamp(a, −1, 1)) towards c from the policy's rollout, by Levenberg–Marquardt."""

    def __init__(
        self, model: WorldModel, config: TrajectoryConfig, compiler: Compiler = EAGER
    ) -> None:
        self._model = model
        self._config = config
        self._compiler = compiler
        self.return_limit = config.value_offset
        """c: above it the steps, which near it, lower G"""
        spreads = {config.plan_spread, config.explore_spread}
        self._solvers = {spread: self._new_solver(spread) for spread in spreads}

    def _new_solver(self, spread: float) -> TrajectorySolver | PublishedSolver:
        config = self._config
        options = SolverOptions(**{f.name: getattr(config, f.name) for f in fields(SolverOptions)})
        return_fn = partial(self._clamped_return, spread=spread)
        if config.solver == "published":
            return PublishedSolver(return_fn, options)
        gradient = gradient_function(self._model, config, self._compiler, spread)
        return TrajectorySolver(return_fn, options, gradient, graphs=self._compiler.graphs)

    def plan(
        self,
        obs: Tensor,
        *,
        horizon: int,
        explore: bool,
        generators: Sequence[torch.Generator],
        update_step: int = 0,
        carry: Tensor | None = None,
        differentiate: bool = False,
    ) -> Plan:
        """Plan for B observations ``[B, *O]``, each with its own generator of noise.

        With ``differentiate``, ``differentiable_action`` is the last iterate's first action,
        raw, with a graph to encoder, dynamics, reward and latent critics; the action to execute
        is the best iterate's, detached. ``update_step`` decides the exploration noise; every
        plan begins anew, whatever the ``carry``.
        """
        spread = self._config.explore_spread if explore else self._config.plan_spread
        with torch.set_grad_enabled(differentiate):
            z = self._model.encode(obs)
            first_guess = self._first_guess(z.detach(), horizon, explore, generators)
            solution = self._solvers[spread].solve(flatten(first_guess), z)
        noise_std = self._config.exploration_std(update_step) if explore else 0.0
        return optimized_plan(solution, first_guess, generators, noise_std, differentiate)

    def _clamped_return(
        self, flat_actions: Float[Tensor, "B D"], z: Float[Tensor, "B Z"], spread: float
    ) -> Float[Tensor, "B 1"]:
        actions = unflatten(flat_actions.clamp(-1, 1), self._model.action_dim)
        return plan_return(self._model, z, actions, self._config.discount, spread=spread)

    @torch.no_grad()
    def _first_guess(
        self,
        z: Float[Tensor, "B Z"],
        horizon: int,
        explore: bool,
        generators: Sequence[torch.Generator],
    ) -> Float[Tensor, "H B A"]:
        when, std = self._config.first_guess_noise, self._config.min_std
        noise = None
        if std > 0 and (when == "always" or (when == "explore" and explore)):
            noise = std * normal((horizon, self._model.action_dim), generators).transpose(0, 1)
        return policy_rollout(self._model, z, horizon, noise)


def optimized_plan(
    solution: Solution,
    first_guess: Float[Tensor, "H B A"],
    generators: Sequence[torch.Generator],
    noise_std: float,
    differentiate: bool,
) -> Plan:
    """What a solver found, as a plan; ``noise_std`` is of noise on the executed action alone."""
    action_dim = first_guess.shape[-1]
    best = unflatten(solution.best, action_dim)
    action = best[0]
    if noise_std > 0:
        # G is that of the clamped action: what lies outside the box must not hide the noise
        action = action.clamp(-1, 1) + noise_std * normal(action.shape[1:], generators)
    return Plan(
        action=action,
        differentiable_action=unflatten(solution.last, action_dim)[0] if differentiate else None,
        finite=solution.solved & torch.isfinite(action).all(dim=1),
        actions=best,
        first_guess=first_guess,
        stats={
            "plan_iterations": solution.iterations.float(),
            "plan_return_before": solution.first_return,
            "plan_return_after": solution.best_return,
            "plan_return_gain": solution.best_return - solution.first_return,
        },
    )
