"""The gradient of a solve against finite differences of the same thing."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from planning_fakes import OPTIONS, model_return, problem
from torch import Tensor

from builders import random_obs, tiny_config, tiny_model
from difftori.model.world_model import WorldModel
from difftori.solvers.solution import SolverOptions
from difftori.solvers.theseus_lm import TrajectorySolver


@pytest.fixture
def double_model() -> WorldModel:
    return tiny_model(tiny_config()).double()


def finite_difference(
    fn: Callable[[], Tensor], entry: Tensor, flat_index: int, epsilon: float = 1e-5
) -> float:
    """Central difference of the scalar ``fn()`` in one entry of a tensor, in place."""
    flat = entry.data.view(-1)
    kept = flat[flat_index].item()
    values = []
    for sign in (1, -1):
        flat[flat_index] = kept + sign * epsilon
        values.append(fn().item())
    flat[flat_index] = kept
    return (values[0] - values[1]) / (2 * epsilon)


def derivative_entries(model: WorldModel, z: Tensor) -> dict[str, Tensor]:
    return {
        "latent": z,
        "dynamics": model._dynamics[2].weight,
        "reward": model._reward[0].weight,
        "critic": model._Q1[0].weight,
        "encoder": model._encoder[0].weight,
    }


def check_against_finite_differences(
    model: WorldModel, options: SolverOptions, frozen: Tensor, guess: Tensor, z_free: Tensor
) -> None:
    """The gradient of ``options``'s solve from ``guess``, against differences of the unrolled
    solve of its differentiated iterations from ``frozen``."""
    return_fn = model_return(model)
    weights = torch.randn(
        guess.shape, dtype=guess.dtype, generator=torch.Generator().manual_seed(5)
    )
    iterations = options.max_iterations
    if options.backward_mode == "truncated":
        iterations = options.backward_num_iterations
    tail = TrajectorySolver(
        return_fn, replace(options, backward_mode="unroll", max_iterations=iterations)
    )

    def latent() -> Tensor:
        return model.encode(random_obs(len(guess))) + z_free

    def tail_value() -> Tensor:
        with torch.no_grad():
            return (tail.solve(frozen, latent()).last * weights).sum()

    value = (TrajectorySolver(return_fn, options).solve(guess, latent()).last * weights).sum()
    torch.testing.assert_close(value.detach(), tail_value(), atol=1e-10, rtol=0)
    entries = derivative_entries(model, z_free)
    gradients = torch.autograd.grad(value, list(entries.values()))
    for (name, entry), gradient in zip(entries.items(), gradients, strict=True):
        largest = int(gradient.abs().argmax())
        analytic = gradient.flatten()[largest].item()
        numeric = finite_difference(tail_value, entry, largest)
        assert abs(analytic) > 1e-4, name
        assert analytic == pytest.approx(numeric, rel=1e-5), name


def test_unroll_is_the_derivative_of_the_whole_solve(double_model: WorldModel) -> None:
    guess, z = problem(double_model, batch=2)
    z_free = torch.zeros_like(z, requires_grad=True)
    check_against_finite_differences(double_model, OPTIONS, guess, guess, z_free)


def test_truncated_is_the_derivative_of_the_last_iterations_from_a_frozen_iterate(
    double_model: WorldModel,
) -> None:
    guess, z = problem(double_model, batch=2)
    options = replace(OPTIONS, backward_mode="truncated")
    before = replace(OPTIONS, max_iterations=12 - 4)
    frozen = TrajectorySolver(model_return(double_model), before).solve(guess, z).last.detach()
    z_free = torch.zeros_like(z, requires_grad=True)
    check_against_finite_differences(double_model, options, frozen, guess, z_free)
