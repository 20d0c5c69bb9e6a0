"""The differentiable planner: trajectory optimization over the world model (DiffTORI, sec. 4.1)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from difftori.compiling.compiler import EAGER, Compiler
from difftori.model.world_model import WorldModel
from difftori.planning.fast_gradient import return_and_gradient
from difftori.planning.noise import normal
from difftori.planning.returns import plan_return, policy_rollout
from difftori.planning.theseus_lm import (
    GradientFunction,
    PublishedSolver,
    SolverOptions,
    TrajectorySolver,
)
from difftori.sections import TrajectoryConfig
from difftori.types import Plan


class TrajectoryPlanner:
    """max_a G(clamp(a, −1, 1)) from the policy's rollout, by Levenberg–Marquardt."""

    def __init__(
        self, model: WorldModel, config: TrajectoryConfig, compiler: Compiler = EAGER
    ) -> None:
        self._model = model
        self._config = config
        options = SolverOptions(**{k: getattr(config, k) for k in _OPTION_KEYS})
        self._solver = (
            TrajectorySolver(self._clamped_return, options, self._gradient_function(compiler))
            if config.solver == "residual"
            else PublishedSolver(self._clamped_return, options)
        )

    def plan(
        self,
        obs: Tensor,
        *,
        horizon: int,
        explore: bool,
        generators: Sequence[torch.Generator],
        differentiate: bool = False,
    ) -> Plan:
        """Plan for B observations ``[B, *O]``, each with its own generator of noise.

        With ``differentiate``, ``differentiable_action`` is the last iterate's first action,
        raw, with a graph to encoder, dynamics, reward and latent critics; the action to execute
        is the best iterate's, detached.
        """
        with torch.set_grad_enabled(differentiate):
            z = self._model.encode(obs)
            first_guess = self._first_guess(z.detach(), horizon, explore, generators)
            solution = self._solver.solve(_flatten(first_guess), z)
        best = _unflatten(solution.best, horizon)
        action = best[0]
        if explore and self._config.explore_noise > 0:
            action = action + self._config.explore_noise * normal(action.shape[1:], generators)
        stats = {
            "plan_iterations": solution.iterations.float(),
            "plan_return_before": solution.first_return,
            "plan_return_after": solution.best_return,
            "plan_return_gain": solution.best_return - solution.first_return,
        }
        return Plan(
            action=action,
            differentiable_action=_unflatten(solution.last, horizon)[0] if differentiate else None,
            finite=solution.solved & torch.isfinite(action).all(dim=1),
            actions=best,
            first_guess=first_guess,
            stats=stats,
        )

    def _clamped_return(
        self, flat_actions: Float[Tensor, "B D"], z: Float[Tensor, "B Z"]
    ) -> Float[Tensor, "B 1"]:
        horizon = flat_actions.shape[1] // self._model.action_dim
        actions = _unflatten(flat_actions.clamp(-1, 1), horizon)
        return plan_return(self._model, z, actions, self._config.discount)

    def _gradient_function(self, compiler: Compiler) -> GradientFunction | None:
        """The adjoint recursion knows our networks; a model of another type is autograd's."""
        if type(self._model) is not WorldModel:
            return None
        compiled = compiler(self._clamped_gradient, "the planner")
        if not compiler.enabled:
            return compiled

        def of_one_kind(flat_actions: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
            # The first differentiated iteration's plan has no graph, the later ones' have; one
            # compiled version serves both if all of them ask for gradients.
            if torch.is_grad_enabled() and not flat_actions.requires_grad:
                flat_actions = flat_actions.detach().requires_grad_()
            return compiled(flat_actions, z)

        return of_one_kind

    def _clamped_gradient(
        self, flat_actions: Float[Tensor, "B D"], z: Float[Tensor, "B Z"]
    ) -> tuple[Float[Tensor, "B 1"], Float[Tensor, "B D"]]:
        """The return and its gradient, which is zero where an action is outside the box."""
        horizon = flat_actions.shape[1] // self._model.action_dim
        actions = _unflatten(flat_actions.clamp(-1, 1), horizon)
        G, gradient = return_and_gradient(self._model, z, actions, self._config.discount)
        return G, _flatten(gradient) * (flat_actions.abs() <= 1)

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


_OPTION_KEYS = (
    "max_iterations",
    "step_size",
    "damping",
    "value_offset",
    "rel_err_tolerance",
    "backward_mode",
    "backward_num_iterations",
)


def _flatten(actions: Float[Tensor, "H B A"]) -> Float[Tensor, "B D"]:
    return actions.transpose(0, 1).reshape(actions.shape[1], -1)


def _unflatten(flat: Float[Tensor, "B D"], horizon: int) -> Float[Tensor, "H B A"]:
    return flat.reshape(len(flat), horizon, -1).transpose(0, 1)
