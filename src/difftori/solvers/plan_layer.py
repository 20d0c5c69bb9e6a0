"""What a Theseus layer of plans is made of: one scalar residual r(a) = c − G(a, z).

Theseus: Pineda et al., "Theseus: A Library for Differentiable Nonlinear Optimization",
NeurIPS 2022, arXiv 2207.09442.
"""

from typing import Any, cast

import theseus as th
import torch
from jaxtyping import Float
from theseus.optimizer import Linearization, OptimizerInfo
from theseus.optimizer.linear import LinearSolver
from torch import Tensor

from difftori.solvers.solution import GradientFunction, ReturnFunction


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


class ResidualLinearization(Linearization):
    """J and r of the one scalar residual, and no products of them."""

    J: Float[Tensor, "B D"]
    r: Float[Tensor, "B 1"]

    def forget(self) -> None:
        """Let go of both, and of the graph that they may have."""
        self.J = self.r = torch.empty(0)

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


class PlanLayers:
    """A Theseus layer for each length of plan; it takes batches of any size."""

    def __init__(
        self,
        return_fn: ReturnFunction,
        gradient_fn: GradientFunction,
        *,
        optimizer: type[th.LevenbergMarquardt],
        linear_solver: type[LinearSolver],
        offset: float = 0.0,
        **arguments: Any,
    ) -> None:
        """
        Args:
            linear_solver: works on a ``ResidualLinearization``.
            offset: c.
            arguments: for the optimizer's constructor.
        """
        self._functions = (return_fn, gradient_fn)
        self._optimizer = optimizer
        self._linear_solver = linear_solver
        self._offset = offset
        self._arguments = arguments
        self._layers: dict[tuple[int, int, torch.dtype, torch.device], th.TheseusLayer] = {}

    def forward(
        self, actions: Float[Tensor, "B D"], z: Float[Tensor, "B Z"], **arguments: Any
    ) -> tuple[Float[Tensor, "B D"], OptimizerInfo]:
        """The last iterate from ``actions``, and what the optimizer, given ``arguments``, reports.

        The iterate has a graph to z and the weights if gradients are on.
        """
        layer = self._layer(actions, z)
        inputs = {"actions": actions, "latent": z}
        values, info = layer.forward(inputs, optimizer_kwargs=arguments)
        # The layer outlives the plan; the plan's graph should not.
        layer.objective.update({"actions": actions.detach(), "latent": z.detach()})
        solver = cast(th.LevenbergMarquardt, layer.optimizer).linear_solver
        cast(ResidualLinearization, solver.linearization).forget()
        return values["actions"], info

    def _layer(self, actions: Tensor, z: Tensor) -> th.TheseusLayer:
        key = (actions.shape[1], z.shape[1], actions.dtype, actions.device)
        if key not in self._layers:
            actions_var = th.Vector(tensor=torch.zeros_like(actions), name="actions")
            latent_var = th.Variable(tensor=torch.zeros_like(z), name="latent")
            objective = th.Objective(dtype=actions.dtype)
            objective.to(device=actions.device)
            objective.add(PlanCost(*self._functions, actions_var, latent_var, self._offset))
            optimizer = self._optimizer(objective, self._linear_solver, **self._arguments)
            self._layers[key] = th.TheseusLayer(optimizer, vectorize=False)
        return self._layers[key]
