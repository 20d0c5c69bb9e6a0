"""Newton-like steps in a box, as functions of tensors: every row of a batch is a problem.

They climb a function G of a over −1 ≤ a ≤ 1, with g = ∇G and a model B of −∇²G. Sources: Bertsekas,
"Projected Newton methods for optimization problems with simple constraints", 1982; Nocedal and
Wright, "Numerical Optimization", 2006.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

INITIAL_STEP = 1.0
"""root mean square of a first step over the free coordinates, in actions"""
LEAST_CURVATURE = 0.2
"""Powell's damping: a step's curvature is kept at this share of what B says, at least"""
TINY = 1e-20
"""keeps divisions finite where a step or a gradient is zero"""


def free_coordinates(
    actions: Float[Tensor, "B D"], gradient: Float[Tensor, "B D"]
) -> Bool[Tensor, "B D"]:
    """False where a coordinate is at a bound and its gradient points out of the box."""
    return (actions + gradient.sign()).abs() < 2


def first_damping(gradient: Float[Tensor, "B D"], free: Bool[Tensor, "B D"]) -> Float[Tensor, "B"]:
    """λ for which a step without curvature has the root mean square ``INITIAL_STEP``."""
    count = free.sum(dim=1).clamp(min=1)
    return (gradient * free).norm(dim=1) / (INITIAL_STEP * count.sqrt()) + TINY


def damped_bfgs(
    curvature: Float[Tensor, "B D D"],
    known: Bool[Tensor, "B"],
    step: Float[Tensor, "B D"],
    change: Float[Tensor, "B D"],
) -> tuple[Float[Tensor, "B D D"], Bool[Tensor, "B"]]:
    """B after a step, and whether it is known in each row.

    A row whose B is not definite any more begins anew, with a multiple of I of the same size.

    Args:
        known: False where no step has told of B yet; such a row begins with a multiple of I.
        change: y, what the step took off the gradient; with B exact, y = B s.
    """
    sy, ss = (step * change).sum(dim=1), step.square().sum(dim=1)
    begins = ~known & (sy > TINY)
    scale = torch.where(begins, change.square().sum(dim=1) / sy, 0.0)
    curvature = curvature + torch.diag_embed(scale.unsqueeze(1).expand_as(step))
    known = known | begins
    Bs = torch.bmm(curvature, step.unsqueeze(2)).squeeze(2)
    sBs = (step * Bs).sum(dim=1)
    # y + (1 − share)(Bs − y) has the curvature LEAST_CURVATURE · sBs where y has less
    lacking = (LEAST_CURVATURE * sBs - sy).clamp(min=0)
    y = change + (lacking / (sBs - sy + TINY)).unsqueeze(1) * (Bs - change)
    ys = sy + lacking
    usable = known & (ys > 1e-10 * ss) & (sBs > TINY)
    u = y * ys.clamp(min=TINY).rsqrt().unsqueeze(1)
    v = Bs * sBs.clamp(min=TINY).rsqrt().unsqueeze(1)
    factors, signs = torch.stack([u, v], dim=2), torch.stack([u, -v], dim=1)
    updated = torch.baddbmm(curvature, factors, signs)
    curvature = torch.where(usable[:, None, None], updated, curvature)
    # negative curvature, met again and again, brings an eigenvalue down to where rounding decides
    # its sign; below zero it would grow with each step
    definite = torch.linalg.cholesky_ex(curvature).info == 0
    size = curvature.diagonal(dim1=1, dim2=2).abs().mean(dim=1)
    anew = torch.diag_embed(size.unsqueeze(1).expand_as(step))
    return torch.where(definite[:, None, None], curvature, anew), known


def definite_block(
    curvature: Float[Tensor, "B D D"], free: Bool[Tensor, "B D"], least: float = 1e-3
) -> Tensor:
    """The block of the free coordinates made definite, and the diagonal's size elsewhere.

    Eigenvalues are taken as absolute values, none under ``least`` of the largest. A matrix that
    is not finite stays as it is.
    """
    finite = torch.isfinite(curvature).flatten(1).all(dim=1)[:, None, None]
    both_free = free.unsqueeze(2) & free.unsqueeze(1)
    values, vectors = torch.linalg.eigh(torch.where(finite & both_free, curvature, 0.0))
    values = values.abs()
    values = values.maximum(least * values.amax(dim=1, keepdim=True) + TINY)
    definite = (vectors * values.unsqueeze(1)) @ vectors.transpose(1, 2)
    own = torch.diag_embed(curvature.diagonal(dim1=1, dim2=2).abs())
    return torch.where(finite, torch.where(both_free, definite, own), curvature)


def active_set_step(
    curvature: Float[Tensor, "B D D"],
    damping: Float[Tensor, "B"],
    gradient: Float[Tensor, "B D"],
    free: Bool[Tensor, "B D"],
) -> Float[Tensor, "B D"]:
    """δ with (B + λI) δ = g over the free coordinates, and 0 elsewhere."""
    is_free = free.to(gradient.dtype)
    matrix = curvature * is_free.unsqueeze(2) * is_free.unsqueeze(1)
    diagonal = damping.unsqueeze(1) * is_free + (1 - is_free)
    factor, _ = torch.linalg.cholesky_ex(matrix + torch.diag_embed(diagonal))
    # not cholesky_solve: on a GPU it allocates memory by itself, which no CUDA graph can hold
    half = torch.linalg.solve_triangular(factor, (gradient * is_free).unsqueeze(2), upper=False)
    return torch.linalg.solve_triangular(factor.mT, half, upper=True).squeeze(2)


def softly_bound_step(
    curvature: Float[Tensor, "B D D"],
    damping: Float[Tensor, "B"],
    gradient: Float[Tensor, "B D"],
    free: Bool[Tensor, "B D"],
    softness: float,
) -> Float[Tensor, "B D"]:
    """g_i / (B_ii + λ + g_i²/μ) where a coordinate is not free, and 0 elsewhere.

    With the stiffness g_i²/μ held constant its derivative is the sensitivity of the optimum under
    a logarithmic barrier of strength μ, whose slack is μ/|g_i|: small, and not zero. The step
    itself points out of the box.
    """
    stiffness = gradient.detach().square() / softness
    own = curvature.diagonal(dim1=1, dim2=2) + damping.unsqueeze(1) + stiffness
    return gradient.masked_fill(free, 0.0) / (own + TINY)
