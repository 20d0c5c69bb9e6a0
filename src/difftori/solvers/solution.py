"""What every trajectory solver is given and gives back: flat plans, options, a solution."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

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

    def optimizer_arguments(self) -> dict[str, Any]:
        """For the constructor of a Theseus optimizer."""
        return {
            "max_iterations": self.max_iterations,
            "step_size": self.step_size,
            "rel_err_tolerance": self.rel_err_tolerance,
            "abs_err_tolerance": 1e-10 if self.rel_err_tolerance else 0.0,
        }

    def solve_arguments(self) -> dict[str, Any]:
        """For each solve: ``optimizer_kwargs`` of a Theseus layer."""
        return {
            "damping": self.damping,
            "backward_mode": self.backward_mode,
            "backward_num_iterations": min(self.backward_num_iterations, self.max_iterations),
        }


@dataclass(frozen=True)
class Solution:
    """What the solver did with B plans."""

    last: Float[Tensor, "B D"]
    """the last iterate, with its graph when one was asked for"""
    best: Float[Tensor, "B D"]
    """the iterate with the highest G (of the published optimizer: the nearest to c), detached"""
    iterations: Int[Tensor, "B"]
    """steps taken"""
    first_return: Float[Tensor, "B"]
    """G of the first guess"""
    best_return: Float[Tensor, "B"]
    """G of ``best``"""
    solved: Bool[Tensor, "B"]
    """False where a number in the solve was not finite, or the linear solver failed"""


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


def flatten(actions: Float[Tensor, "H B A"]) -> Float[Tensor, "B D"]:
    """Plans as vectors, D = H·A."""
    return actions.transpose(0, 1).reshape(actions.shape[1], -1)


def unflatten(flat: Float[Tensor, "B D"], action_dim: int) -> Float[Tensor, "H B A"]:
    """The inverse of ``flatten``."""
    return flat.reshape(len(flat), -1, action_dim).transpose(0, 1)
