"""The steps of the trust region, and where it begins."""

import pytest
import torch
from box_problems import CURVATURE, latents

from builders import generators
from difftori.planning.starts import best_candidates, samples, shifted
from difftori.solvers.quasi_newton import (
    active_set_step,
    definite_bfgs,
    definite_block,
    free_coordinates,
)


def test_bfgs_satisfies_the_secant_equation_and_stays_definite() -> None:
    step, change = latents(5, 1.0), latents(5, 1.0) @ CURVATURE
    known = torch.tensor([True, True, True, False, False])
    start = torch.eye(4, dtype=torch.float64).expand(5, 4, 4) * known[:, None, None]
    updated, now_known = definite_bfgs(start, known, step, change)
    assert now_known.all()
    torch.testing.assert_close((updated @ step.unsqueeze(2)).squeeze(2), change)
    against, _ = definite_bfgs(updated, now_known, step, -change)
    assert torch.linalg.eigvalsh(against).min() > 0


def test_bfgs_stays_definite_in_float32_where_negative_curvature_comes_again_and_again() -> None:
    """Steps are those of the solver: they follow an eigenvalue that rounding made negative."""
    generator = torch.Generator().manual_seed(0)
    rows, dim = 64, 6
    curvature, known = torch.zeros(rows, dim, dim), torch.zeros(rows, dtype=torch.bool)
    for _ in range(100):
        gradient = torch.randn(rows, dim, generator=generator)
        free = torch.rand(rows, dim, generator=generator) > 0.3
        size = curvature.diagonal(dim1=1, dim2=2).mean(dim=1)
        damping = torch.where(known, 1e-2 * size, 1.0)
        step = active_set_step(curvature, damping, gradient, free).clamp(-1, 1)
        hessian = torch.randn(rows, dim, dim, generator=generator)
        change = torch.bmm(hessian + hessian.mT, step.unsqueeze(2)).squeeze(2)
        curvature, known = definite_bfgs(curvature, known, step, change)
        eigenvalues = torch.linalg.eigvalsh(curvature.double())
        assert (eigenvalues[:, 0] >= -1e-6 * eigenvalues[:, -1]).all()
    assert curvature.isfinite().all()
    assert known.all()


def test_bfgs_does_not_grow_where_negative_curvature_comes_again_and_again() -> None:
    hessian = torch.diag(torch.tensor([1.0, -1.0], dtype=torch.float64))
    curvature = torch.diag(torch.tensor([1.0, 1e-4], dtype=torch.float64)).unsqueeze(0)
    known, step = torch.tensor([True]), torch.tensor([[0.01, 1.0]], dtype=torch.float64)
    for _ in range(8):
        curvature, known = definite_bfgs(curvature, known, step, step @ hessian)
        eigenvalues = torch.linalg.eigvalsh(curvature)
        assert eigenvalues.min() > 0
        assert eigenvalues.max() < 1.1
        gradient = torch.ones(1, 2, dtype=torch.float64)
        step = torch.linalg.solve(curvature, gradient).clamp(-1, 1)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("entry", [torch.inf, -torch.inf, torch.nan, 2e19])
def test_bfgs_ignores_a_change_that_is_not_finite(entry: float, known: bool) -> None:
    curvature = torch.eye(2).unsqueeze(0) * known
    step, change = torch.tensor([[1.0, -1.0]]), torch.tensor([[1.0, entry]])
    same, still_known = definite_bfgs(curvature, torch.tensor([known]), step, change)
    assert same.tolist() == curvature.tolist()
    assert still_known.tolist() == [known]


def test_free_coordinates_are_those_whose_gradient_does_not_leave_the_box() -> None:
    actions = torch.tensor([[1.0, 1.0, -1.0, -1.0, 0.99, 0.0]])
    gradient = torch.tensor([[1.0, -1.0, 1.0, -1.0, 5.0, 0.0]])
    expected = [[False, True, True, False, True, True]]
    assert free_coordinates(actions, gradient).tolist() == expected


def test_the_free_block_is_made_definite_by_itself() -> None:
    matrix = torch.tensor([[[-2.0, 5.0], [5.0, 1.0]], [[-2.0, 0.0], [0.0, 1.0]]])
    free = torch.tensor([[True, False], [True, True]])
    expected = torch.diag(torch.tensor([2.0, 1.0])).expand(2, 2, 2)
    torch.testing.assert_close(definite_block(matrix, free), expected)
    assert definite_block(torch.full((1, 2, 2), torch.nan), free[:1]).isnan().all()


def test_candidates() -> None:
    plan = torch.arange(6.0).unsqueeze(0) / 10
    assert shifted(plan, -plan, 2).tolist() == torch.cat([plan[:, 2:], -plan[:, -2:]], 1).tolist()
    drawn = samples(plan, 200, generators(1))
    assert drawn.abs().max() == 1
    candidates = torch.tensor([[[0.9], [0.1], [torch.nan], [0.2]]])
    kept = best_candidates(lambda a, z: -a.abs(), candidates, torch.zeros(1, 1), 3)
    assert kept.flatten().tolist() == pytest.approx([0.9, 0.1, 0.2])
