"""The solver against the closed form and Theseus's own solver."""

from dataclasses import replace

import pytest
import theseus as th
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planning_fakes import OPTIONS, model_return, problem
from torch import Tensor

from builders import tiny_config, tiny_model
from difftori.model.world_model import WorldModel
from difftori.solvers.plan_layer import PlanCost
from difftori.solvers.published_solver import PublishedSolver
from difftori.solvers.solution import ReturnFunction
from difftori.solvers.theseus_lm import (
    LevenbergMarquardt,
    ResidualSpaceSolver,
    TrajectorySolver,
    residual_space_step,
)


@pytest.fixture
def double_model() -> WorldModel:
    return tiny_model(tiny_config()).double()


def quadratic(curvature: float = 1.0) -> ReturnFunction:
    """G = −curvature ‖a − z‖², without a clamp."""
    return lambda a, z: -curvature * (a - z).square().sum(dim=1, keepdim=True)


# One step


def test_one_iteration_is_the_closed_form(double_model: WorldModel) -> None:
    """a + s (c − G) ∇G / (‖∇G‖² + λ)."""
    guess, z = problem(double_model)
    return_fn = model_return(double_model)
    options = replace(OPTIONS, max_iterations=1, step_size=0.3, damping=0.7)
    a = guess.clone().requires_grad_()
    G = return_fn(a, z)
    (gradient,) = torch.autograd.grad(G.sum(), a)
    squared_norm = gradient.square().sum(dim=1, keepdim=True)
    expected = guess + 0.3 * (1000.0 - G.detach()) * gradient / (squared_norm + 0.7)
    last = TrajectorySolver(return_fn, options).solve(guess, z).last
    torch.testing.assert_close(last.detach(), expected, atol=1e-10, rtol=0)
    assert (last - guess).abs().min() > 1e-3


def test_the_residual_space_step_solves_the_damped_normal_equations() -> None:
    generator = torch.Generator().manual_seed(0)
    J = torch.randn(4, 5, dtype=torch.float64, generator=generator)
    r = torch.randn(4, 1, dtype=torch.float64, generator=generator)
    delta = residual_space_step(J, r, 0.3)
    normal = J.unsqueeze(2) * J.unsqueeze(1) + 0.3 * torch.eye(5, dtype=torch.float64)
    torch.testing.assert_close((normal @ delta.unsqueeze(2)).squeeze(2), -J * r)


# Against Theseus's own


@pytest.mark.parametrize("mode", ["truncated", "unroll"])
@pytest.mark.parametrize("with_graph", [True, False])
def test_equals_the_published_solver(double_model: WorldModel, mode: str, with_graph: bool) -> None:
    guess, z = problem(double_model)
    options = replace(OPTIONS, backward_mode=mode)
    return_fn = model_return(double_model)
    results = []
    for solver in (TrajectorySolver, PublishedSolver):
        latent = z.clone().requires_grad_(with_graph)
        with torch.set_grad_enabled(with_graph):
            solution = solver(return_fn, options).solve(guess, latent)
        results.append((solution, latent))
    (ours, our_latent), (theirs, their_latent) = results
    for name in ("last", "best", "first_return", "best_return"):
        ours_value, theirs_value = getattr(ours, name), getattr(theirs, name)
        torch.testing.assert_close(ours_value, theirs_value, atol=1e-8, rtol=1e-9)
    assert ours.iterations.tolist() == theirs.iterations.tolist() == [12] * 3
    assert ours.solved.all()
    assert theirs.solved.all()
    assert (ours.last - guess).abs().max() > 1e-2
    assert ours.last.requires_grad == with_graph
    if with_graph:
        inputs = [*double_model._dynamics.parameters(), *double_model._reward.parameters()]
        inputs += [*double_model._Q1.parameters(), *double_model._Q2.parameters()]
        weights = torch.randn(ours.last.shape, dtype=torch.float64)
        gradients = [
            torch.autograd.grad((solution.last * weights).sum(), [*inputs, latent])
            for solution, latent in ((ours, our_latent), (theirs, their_latent))
        ]
        for our_gradient, their_gradient in zip(*gradients, strict=True):
            torch.testing.assert_close(our_gradient, their_gradient, atol=1e-7, rtol=1e-6)


STOPPING = replace(OPTIONS, max_iterations=60, step_size=1e-4, damping=0.5, rel_err_tolerance=1e-8)
"""with c = 1000, a quadratic's plan nears its optimum by a third in each iteration"""


@pytest.mark.parametrize("mode", ["truncated", "unroll"])
@pytest.mark.parametrize("distance", [0.5, 0.02, 0.0])
def test_stops_early_where_theseus_does(mode: str, distance: float) -> None:
    options = replace(STOPPING, backward_mode=mode)
    guess, z = torch.zeros(1, 4), torch.full((1, 4), distance)
    ours = TrajectorySolver(quadratic(), options).solve(guess, z)
    theirs = PublishedSolver(quadratic(), options).solve(guess, z)
    assert 0 < ours.iterations.item() < 60
    assert ours.iterations.tolist() == theirs.iterations.tolist()
    torch.testing.assert_close(ours.last, theirs.last, atol=1e-6, rtol=0)
    torch.testing.assert_close(ours.best, theirs.best, atol=1e-6, rtol=0)


def test_a_tolerance_of_zero_never_stops() -> None:
    options = replace(STOPPING, rel_err_tolerance=0.0)
    solution = TrajectorySolver(quadratic(), options).solve(torch.zeros(1, 4), torch.zeros(1, 4))
    assert solution.iterations.item() == 60


def test_best_is_the_iterate_nearest_the_optimum_not_the_last() -> None:
    """A step too long swings across the optimum further each time."""
    options = replace(OPTIONS, step_size=1e-3, damping=0.5, max_iterations=3)
    guess, z = torch.full((1, 1), 0.01), torch.zeros(1, 1)
    ours = TrajectorySolver(quadratic(), options).solve(guess, z)
    theirs = PublishedSolver(quadratic(), options).solve(guess, z)
    assert ours.last.abs() > 2 * guess
    assert torch.equal(ours.best, guess)
    torch.testing.assert_close(ours.best, theirs.best)
    torch.testing.assert_close(
        ours.best_return, quadratic()(ours.best, z).squeeze(1), atol=1e-4, rtol=0
    )


# Batches


def stopping_batch() -> tuple[Tensor, Tensor]:
    """Rows that stop at different iterations."""
    return torch.zeros(3, 4), torch.tensor([0.7, 0.001, 0.1]).unsqueeze(1).expand(3, 4).clone()


@pytest.mark.parametrize("mode", ["truncated", "unroll"])
def test_a_batch_equals_single_solves_also_when_rows_stop_early(mode: str) -> None:
    solver = TrajectorySolver(quadratic(), replace(STOPPING, backward_mode=mode))
    guess, z = stopping_batch()
    together = solver.solve(guess, z)
    alone = [solver.solve(guess[i : i + 1], z[i : i + 1]) for i in range(3)]
    assert len(set(together.iterations.tolist())) == 3
    for name in ("iterations", "last", "best", "first_return", "best_return", "solved"):
        rows = torch.cat([getattr(solution, name) for solution in alone])
        torch.testing.assert_close(getattr(together, name), rows, atol=1e-6, rtol=0)


@pytest.mark.parametrize("other", [0.9, torch.nan, torch.inf, 1e30])
def test_a_row_does_not_change_when_another_does(other: float) -> None:
    solver = TrajectorySolver(quadratic(), replace(STOPPING, backward_mode="truncated"))
    guess, z = stopping_batch()
    before = solver.solve(guess, z)
    z[1] = other
    after = solver.solve(guess, z)
    for name in ("iterations", "last", "best", "first_return", "best_return", "solved"):
        ours, theirs = getattr(before, name)[[0, 2]], getattr(after, name)[[0, 2]]
        assert torch.equal(ours, theirs), name
    assert not torch.equal(before.last[1], after.last[1])


def test_a_row_of_gradients_does_not_change_when_another_row_is_nan() -> None:
    solver = TrajectorySolver(quadratic(), replace(OPTIONS, step_size=1e-4))
    gradients = []
    for other in (0.3, torch.nan):
        z = torch.tensor([[0.5, 0.5], [other, other]], requires_grad=True)
        last = solver.solve(torch.zeros(2, 2), z).last
        gradients.append(torch.autograd.grad(last[0].sum(), z)[0][0])
    assert torch.equal(*gradients)
    assert gradients[0].abs().min() > 0.1


def test_batches_of_other_sizes_and_horizons_use_the_same_solver() -> None:
    solver = TrajectorySolver(quadratic(), replace(STOPPING, backward_mode="truncated"))
    for batch, dim in ((3, 4), (1, 4), (2, 1), (5, 4)):
        z = torch.full((batch, dim), 0.3)
        last = solver.solve(torch.zeros(batch, dim), z).last
        torch.testing.assert_close(last, z, atol=5e-3, rtol=0)


def test_the_solver_keeps_no_graph_of_a_finished_plan(double_model: WorldModel) -> None:
    guess, z = problem(double_model)
    solver = TrajectorySolver(model_return(double_model), OPTIONS)
    solver.solve(guess, z.requires_grad_())
    for layer in solver._layers._layers.values():
        variables = {**layer.objective.optim_vars, **layer.objective.aux_vars}
        assert not any(variable.tensor.requires_grad for variable in variables.values())


# Really Theseus


@pytest.mark.parametrize("mode", ["truncated", "unroll"])
def test_every_iteration_goes_through_theseus(
    monkeypatch: pytest.MonkeyPatch, double_model: WorldModel, mode: str
) -> None:
    assert issubclass(LevenbergMarquardt, th.LevenbergMarquardt)
    assert issubclass(ResidualSpaceSolver, th.optimizer.linear.LinearSolver)
    calls: dict[str, int] = {}

    def count(owner: type, method: str) -> None:
        original = getattr(owner, method)

        def counted(self: object, *args: object, **kwargs: object) -> object:
            calls[method] = calls.get(method, 0) + 1
            return original(self, *args, **kwargs)

        monkeypatch.setattr(owner, method, counted)

    count(th.TheseusLayer, "forward")
    count(LevenbergMarquardt, "_optimize_impl")
    count(th.LevenbergMarquardt, "compute_delta")
    count(ResidualSpaceSolver, "solve")
    count(PlanCost, "jacobians")
    count(th.CholeskyDenseSolver, "solve")
    guess, z = problem(double_model)
    options = replace(OPTIONS, backward_mode=mode)
    TrajectorySolver(model_return(double_model), options).solve(guess, z)
    iterations = {"compute_delta": 12, "solve": 12, "jacobians": 12}
    assert calls == {"forward": 1, "_optimize_impl": 1, **iterations}


# Corners


@settings(max_examples=60, deadline=None)
@given(
    ratio=st.floats(1e-3, 1e3),
    damping=st.sampled_from([1e-6, 1e-3, 0.5, 1e3]),
    offset=st.sampled_from([-1000.0, 0.0, 1.0, 1000.0]),
    horizon=st.integers(1, 10),
    batch=st.integers(1, 8),
    step_size=st.sampled_from([1e-5, 1e-3, 1.0]),
)
def test_never_a_number_that_is_not_finite_over_a_millionfold_range_of_jacobians(
    ratio: float, damping: float, offset: float, horizon: int, batch: int, step_size: float
) -> None:
    """``ratio`` is ‖J‖/√λ."""
    slope = ratio * (damping / horizon) ** 0.5
    options = replace(
        STOPPING,
        damping=damping,
        value_offset=offset,
        step_size=step_size,
        max_iterations=6,
        backward_mode="truncated",
    )
    solver = TrajectorySolver(lambda a, z: slope * a.sum(1, keepdim=True) + 0 * z, options)
    z = torch.zeros(batch, 1, requires_grad=True)
    solution = solver.solve(torch.zeros(batch, horizon), z)
    assert solution.solved.all()
    assert solution.last.isfinite().all()
    assert solution.best.isfinite().all()
    assert torch.autograd.grad(solution.last.sum(), z)[0].isfinite().all()


@settings(max_examples=30, deadline=None)
@given(
    damping=st.sampled_from([0.0, 1e-6, 1.0]),
    start=st.sampled_from([1.0, -1.0, 1.5, -20.0]),
    horizon=st.integers(1, 10),
    batch=st.integers(1, 8),
    mode=st.sampled_from(["truncated", "unroll"]),
)
def test_saturated_actions_and_zero_gradients_stay_where_they_are(
    damping: float, start: float, horizon: int, batch: int, mode: str
) -> None:
    """Outside the box the clamped return is flat: gradient zero, also with λ = 0."""
    options = replace(OPTIONS, damping=damping, backward_mode=mode)
    outside = start * 1.01
    solver = TrajectorySolver(lambda a, z: (a.clamp(-1, 1) * z).sum(dim=1, keepdim=True), options)
    z = torch.ones(batch, 1, requires_grad=True)
    guess = torch.full((batch, horizon), outside)
    solution = solver.solve(guess, z)
    assert torch.equal(solution.last.detach(), guess)
    assert solution.solved.all()
    gradient = torch.autograd.grad(solution.last.sum(), z)[0]
    assert torch.equal(gradient, torch.zeros_like(z))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("solver", [TrajectorySolver, PublishedSolver])
@pytest.mark.parametrize("with_graph", [True, False])
@pytest.mark.filterwarnings("ignore:There was an error while running the linear optimizer")
def test_numbers_that_are_not_finite_are_a_status(
    bad: float, solver: type, with_graph: bool
) -> None:
    z = torch.full((1, 2), bad, requires_grad=with_graph)
    options = replace(OPTIONS, backward_mode="truncated")
    with torch.set_grad_enabled(with_graph):
        solution = solver(quadratic(), options).solve(torch.zeros(1, 2), z)
    assert not solution.solved.any()


@pytest.mark.parametrize("first_iterations", [8, 0])
@pytest.mark.parametrize("with_graph", [True, False])
@pytest.mark.filterwarnings("ignore:There was an error while running the linear optimizer")
def test_a_failing_cholesky_is_a_status(with_graph: bool, first_iterations: int) -> None:
    """λ = 0 leaves a matrix of rank one; without a graph Theseus only warns."""
    options = replace(OPTIONS, damping=0.0, backward_mode="truncated")
    options = replace(options, max_iterations=options.backward_num_iterations + first_iterations)
    z = torch.full((1, 3), 0.5, requires_grad=with_graph)
    with torch.set_grad_enabled(with_graph):
        solution = PublishedSolver(quadratic(), options).solve(torch.zeros(1, 3), z)
    assert not solution.solved.any()
    assert solution.best.isfinite().all()


def test_an_error_in_the_model_is_not_taken_for_a_failing_solver() -> None:
    def broken(a: Tensor, z: Tensor) -> Tensor:
        raise RuntimeError("the model is broken")

    for solver in (TrajectorySolver, PublishedSolver):
        with pytest.raises(RuntimeError, match="the model is broken"):
            solver(broken, OPTIONS).solve(torch.zeros(1, 1), torch.zeros(1, 1))
