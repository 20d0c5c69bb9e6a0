"""The trust-region optimizer: known optima, stopping, and that it really is Theseus."""

from dataclasses import replace

import pytest
import theseus as th
import torch
from box_problems import (
    CURVATURE,
    OPTIONS,
    box_optimum,
    bumpy,
    latents,
    quadratic,
    zeros,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from difftori.solvers.plan_layer import PlanCost
from difftori.solvers.trust_region import ActiveSetSolver, TrustRegion
from difftori.solvers.trust_region_solver import TrustRegionSolver


def test_reaches_the_optimum_of_a_quadratic() -> None:
    z = latents(6, 0.4).clamp(-0.9, 0.9)
    with torch.no_grad():
        solution = TrustRegionSolver(quadratic, OPTIONS).solve(zeros(6), z)
    torch.testing.assert_close(solution.best, z, atol=1e-6, rtol=0)
    assert solution.gradient_norm.max() < 1e-5
    assert solution.at_bound.eq(0).all()


def test_reaches_the_optimum_at_active_bounds() -> None:
    z = latents(8, 2.0)
    with torch.no_grad():
        solution = TrustRegionSolver(quadratic, OPTIONS).solve(zeros(8), z)
    torch.testing.assert_close(solution.best, box_optimum(z), atol=1e-5, rtol=0)
    assert solution.at_bound.max() > 0
    assert solution.gradient_norm.max() < 1e-4


def test_needs_few_iterations() -> None:
    z = latents(16, 1.0)
    with torch.no_grad():
        few = TrustRegionSolver(quadratic, replace(OPTIONS, iterations=12)).solve(zeros(16), z)
    best = quadratic(box_optimum(z), z).squeeze(1)
    assert ((best - few.best_return) / (best - few.first_return)).max() < 0.01


def test_never_worse_than_a_start_and_the_best_start_wins() -> None:
    z = latents(8, 1.0)
    starts = (
        torch.rand(8, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    )
    with torch.no_grad():
        together = TrustRegionSolver(bumpy, OPTIONS).solve(starts, z)
        alone = [TrustRegionSolver(bumpy, OPTIONS).solve(starts[:, [k]], z) for k in range(3)]
    for k in range(3):
        assert (together.best_return >= bumpy(starts[:, k], z).squeeze(1)).all()
    most = torch.stack([solution.best_return for solution in alone]).amax(dim=0)
    assert (together.best_return - most).median().abs() < 1e-6


def test_a_carried_curvature_saves_iterations() -> None:
    z = latents(8, 0.3)
    options = replace(OPTIONS, iterations=3)
    known = CURVATURE.expand(8, 4, 4)
    with torch.no_grad():
        without = TrustRegionSolver(quadratic, options).solve(zeros(8), z)
        carried = TrustRegionSolver(quadratic, options).solve(zeros(8), z, known)
    assert (carried.gradient_norm < 0.3 * without.gradient_norm).all()


def test_stops_when_the_gain_has_dried_up() -> None:
    z = latents(8, 0.5)
    with torch.no_grad():
        solution = TrustRegionSolver(quadratic, replace(OPTIONS, gain_tolerance=1e-3)).solve(
            zeros(8), z
        )
    assert solution.iterations.max() < 30
    best = quadratic(box_optimum(z), z).squeeze(1)
    assert ((best - solution.best_return) / (best - solution.first_return)).max() < 0.02


# Really Theseus


@pytest.mark.parametrize("mode", ["truncated", "implicit"])
def test_every_iteration_goes_through_theseus(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    assert issubclass(TrustRegion, th.LevenbergMarquardt)
    assert issubclass(ActiveSetSolver, th.optimizer.linear.LinearSolver)
    calls: dict[str, int] = {}

    def count(owner: type, method: str) -> None:
        original = getattr(owner, method)

        def counted(self: object, *args: object, **kwargs: object) -> object:
            calls[method] = calls.get(method, 0) + 1
            return original(self, *args, **kwargs)

        monkeypatch.setattr(owner, method, counted)

    count(th.TheseusLayer, "forward")
    count(th.LevenbergMarquardt, "compute_delta")
    count(ActiveSetSolver, "solve")
    count(PlanCost, "jacobians")
    options = replace(OPTIONS, iterations=7, start_iterations=3, backward_mode=mode)
    z = latents(2, 0.5).requires_grad_()
    solution = TrustRegionSolver(bumpy, options).solve(zeros(2, 2), z)
    assert solution.iterations.tolist() == [7, 7]
    differentiated = 5 if mode == "truncated" else 1
    steps = 7 + differentiated
    assert calls == {
        "forward": 3,
        "compute_delta": steps,
        "solve": steps,
        "jacobians": 1 + steps,
    }


def test_the_plan_moves_by_the_linear_solvers_steps_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        ActiveSetSolver, "solve", lambda self, **_: torch.zeros_like(self.free) * 1.0
    )
    with torch.no_grad():
        solution = TrustRegionSolver(bumpy, OPTIONS).solve(zeros(2), latents(2, 0.5))
    assert solution.best.eq(0).all()


# Promises


@settings(max_examples=40, deadline=None)
@given(
    scale=st.sampled_from([0.0, 1e-12, 1e-3, 1.0, 1e4, 1e12]),
    batch=st.integers(1, 4),
    count=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_finite_and_inside_over_any_range_of_gradients(
    scale: float, batch: int, count: int, seed: int
) -> None:
    z = latents(batch, 1.0, seed).float().requires_grad_()
    solver = TrustRegionSolver(
        lambda a, z: scale * bumpy(a.double(), z.double()).float(),
        replace(OPTIONS, iterations=10, backward_mode="truncated", bound_softness=0.01),
    )
    starts = torch.rand(batch, count, 4, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    solution = solver.solve(starts, z)
    assert solution.solved.all()
    for plan in (solution.best, solution.last):
        assert plan.isfinite().all()
        assert plan.abs().max() <= 1
    assert torch.autograd.grad(solution.last.sum(), z)[0].isfinite().all()


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize("of", ["G", "gradient"])
def test_a_region_without_finite_values_shortens_steps(of: str, value: float) -> None:
    """G rises with all of a, and where the first is above 0.5 it or its gradient is not finite."""

    def return_and_gradient(a: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        outside = a[:, :1] > 0.5
        G, gradient = a.sum(dim=1, keepdim=True), torch.ones_like(a)
        if of == "G":
            return torch.where(outside, value, G), gradient
        return G, torch.where(outside, value, gradient)

    options = replace(OPTIONS, iterations=12)
    solver = TrustRegionSolver(
        lambda a, z: return_and_gradient(a, z)[0], options, return_and_gradient
    )
    with torch.no_grad():
        solution = solver.solve(zeros(2), latents(2, 1.0))
    assert solution.solved.all()
    assert ((solution.best[:, 0] > 0.3) & (solution.best[:, 0] <= 0.5)).all()


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("mode", ["truncated", "implicit"])
def test_the_derivative_is_not_huge_where_the_gradient_is_zero(mode: str, known: bool) -> None:
    """As before a first reward, when the last layers are zero."""
    weight = torch.zeros((), dtype=torch.float64, requires_grad=True)
    options = replace(OPTIONS, backward_mode=mode, backward_num_iterations=1)
    solver = TrustRegionSolver(lambda a, z: weight * bumpy(a, z), options)
    curvature = CURVATURE.expand(2, 4, 4) if known else None
    solution = solver.solve(zeros(2), latents(2, 1.0), curvature)
    (gradient,) = torch.autograd.grad(solution.last.sum(), weight)
    assert 0 < gradient.abs() < 100


def test_the_solver_keeps_no_graph_of_a_finished_plan() -> None:
    solver = TrustRegionSolver(bumpy, OPTIONS)
    solver.solve(zeros(2), latents(2, 0.5).requires_grad_())
    for layer in solver._layers._layers.values():
        variables = {**layer.objective.optim_vars, **layer.objective.aux_vars}
        assert not any(variable.tensor.requires_grad for variable in variables.values())
        assert not layer.optimizer.linear_solver.linearization.J.requires_grad
