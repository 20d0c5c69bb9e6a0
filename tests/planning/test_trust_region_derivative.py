"""The derivative of the trust region's solution against differences of the same thing."""

from dataclasses import replace

import pytest
import torch
from box_problems import OPTIONS, bumpy, latents, quadratic, zeros
from torch import Tensor

from difftori.solvers.trust_region_solver import TrustRegionSolver


def finite_difference(function: object, at: Tensor, epsilon: float = 1e-4) -> Tensor:
    """Jacobians ``[B, D, Z]`` of a row-wise function, by central differences."""
    columns = []
    for i in range(at.shape[1]):
        shift = torch.zeros_like(at)
        shift[:, i] = epsilon
        columns.append((function(at + shift) - function(at - shift)) / (2 * epsilon))  # type: ignore[operator]
    return torch.stack(columns, dim=2)


def jacobian(last: Tensor, z: Tensor) -> Tensor:
    rows = [torch.autograd.grad(last[:, i].sum(), z, retain_graph=True)[0] for i in range(4)]
    return torch.stack(rows, dim=1)


@pytest.mark.parametrize("scale", [0.1, 1.5])
def test_implicit_is_the_derivative_of_the_argmax(scale: float) -> None:
    """Inside the box, and with active bounds."""
    z = latents(6, scale, seed=4)
    options = replace(OPTIONS, iterations=200)
    solver = TrustRegionSolver(bumpy, options)
    with torch.no_grad():
        start = solver.solve(zeros(6), z).best.unsqueeze(1)

    def argmax(z: Tensor) -> Tensor:
        with torch.no_grad():
            return solver.solve(start, z).best

    latent = z.clone().requires_grad_()
    solution = solver.solve(start, latent)
    assert (scale > 1) == bool((solution.at_bound > 0).any())
    assert solution.gradient_norm.max() < 1e-6
    numeric = finite_difference(argmax, z)
    torch.testing.assert_close(jacobian(solution.last, latent), numeric, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(solution.last.detach(), solution.best, atol=1e-6, rtol=0)


def test_truncated_nears_the_derivative_of_the_argmax_with_its_iterations() -> None:
    z = latents(6, 0.3, seed=3)
    exact, errors = None, []
    for mode, count in (("implicit", 1), ("truncated", 1), ("truncated", 5), ("truncated", 40)):
        options = replace(OPTIONS, iterations=40, backward_mode=mode, backward_num_iterations=count)
        latent = z.clone().requires_grad_()
        result = jacobian(TrustRegionSolver(bumpy, options).solve(zeros(6), latent).last, latent)
        exact = result if exact is None else exact
        errors.append(float((result - exact).norm() / exact.norm()))
    assert errors[1] < 0.5
    assert errors[1] > errors[2] > errors[3]
    assert errors[3] < 1e-3


def test_truncated_is_the_derivative_of_its_steps_from_a_frozen_iterate() -> None:
    options = replace(OPTIONS, iterations=6, backward_mode="truncated", backward_num_iterations=3)
    solver, z = TrustRegionSolver(bumpy, options), latents(4, 0.3)
    with torch.no_grad():
        frozen = solver._iterate(zeros(4)[:, 0], z, 6)

    def tail(z: Tensor) -> Tensor:
        with torch.no_grad():
            return solver._differentiate(frozen, z)

    latent = z.clone().requires_grad_()
    last = solver._differentiate(frozen, latent)
    inside = (last.abs() < 1).all(dim=1) & (frozen.actions.abs() < 1).all(dim=1)
    assert inside.any()
    numeric = finite_difference(tail, z, 1e-5)
    torch.testing.assert_close(
        jacobian(last, latent)[inside], numeric[inside], atol=1e-6, rtol=1e-6
    )


def test_softness_gives_bounds_a_small_derivative_and_leaves_free_coordinates_theirs() -> None:
    z = torch.full((1, 4), 3.0, dtype=torch.float64)
    hard, soft = (
        jacobian(TrustRegionSolver(quadratic, options).solve(zeros(1), latent).last, latent)
        for options in (OPTIONS, replace(OPTIONS, bound_softness=0.01))
        for latent in [z.clone().requires_grad_()]
    )
    bound = hard.abs().sum(dim=2) == 0
    assert bound.any()
    assert (soft.abs().sum(dim=2)[bound] > 0).all()
    assert soft[bound].abs().max() < 0.1
    torch.testing.assert_close(soft[~bound], hard[~bound])


@pytest.mark.parametrize("mode", ["truncated", "implicit"])
def test_a_small_gradient_at_a_bound_does_not_soften_it_beyond_the_box(mode: str) -> None:
    z = torch.ones(1, 4, dtype=torch.float64, requires_grad=True)
    options = replace(OPTIONS, backward_mode=mode, backward_num_iterations=1, bound_softness=0.01)
    solver = TrustRegionSolver(lambda a, z: 1e-3 * (a * z).tanh().sum(dim=1, keepdim=True), options)
    solution = solver.solve(zeros(1) + 1, z)
    assert solution.at_bound == 1
    assert 0 < jacobian(solution.last, z).abs().max() <= 1
