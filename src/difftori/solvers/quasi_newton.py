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
"""a step's curvature in B after it, as a share of that before it, at least"""
TINY = 1e-20
"""keeps divisions finite where a step or a gradient is zero"""


def free_coordinates(
    actions: Float[Tensor, "B D"], gradient: Float[Tensor, "B D"]
) -> Bool[Tensor, "B D"]:
    """False where a coordinate is at a bound and its gradient points out of the box."""
    return (actions + gradient.sign()).abs() < 2


def first_damping(gradient: Float[Tensor, "B D"], free: Bool[Tensor, "B D"]) -> Float[Tensor, "B"]:
    """λ for which a step without curvature has the root mean square ``INITIAL_STEP``.

    It is 1 where the gradient is zero: the derivative of a plan divides by it.
    """
    norm, count = (gradient * free).norm(dim=1), free.sum(dim=1).clamp(min=1)
    return torch.where(norm > TINY, norm / (INITIAL_STEP * count.sqrt()), 1.0)


def definite_bfgs(
    curvature: Float[Tensor, "B D D"],
    known: Bool[Tensor, "B"],
    step: Float[Tensor, "B D"],
    change: Float[Tensor, "B D"],
) -> tuple[Float[Tensor, "B D D"], Bool[Tensor, "B"]]:
    """B after a step, and whether it is known in each row.

    Where the step met less curvature than ``LEAST_CURVATURE`` of what B says, B shrinks to that
    share along the step, and is the same across it. Powell's damping (Nocedal and Wright,
    procedure 18.2) shrinks it too, but keeps y across the step: where G curves the wrong way
    again and again, B then grows without end. A row whose B is not definite any more begins anew,
    with a multiple of I of the same size; one whose y is not finite stays as it is.

    Args:
        known: False where no step has told of B yet; such a row begins with a multiple of I.
        change: y, what the step took off the gradient; with B exact, y = B s.
    """
    sy, ss, yy = (step * change).sum(dim=1), step.square().sum(dim=1), change.square().sum(dim=1)
    finite = torch.isfinite(yy)
    begins = ~known & (sy > TINY) & finite
    scale = torch.where(begins, yy / sy, 0.0)
    curvature = curvature + torch.diag_embed(scale.unsqueeze(1).expand_as(step))
    known = known | begins
    Bs = torch.bmm(curvature, step.unsqueeze(2)).squeeze(2)
    sBs = (step * Bs).sum(dim=1)
    lacking = sy < LEAST_CURVATURE * sBs
    y = torch.where(lacking.unsqueeze(1), LEAST_CURVATURE * Bs, change)
    ys = torch.where(lacking, LEAST_CURVATURE * sBs, sy)
    usable = known & finite & (ys > 1e-10 * ss) & (sBs > TINY)
    u = y * ys.clamp(min=TINY).rsqrt().unsqueeze(1)
    v = Bs * sBs.clamp(min=TINY).rsqrt().unsqueeze(1)
    factors, signs = torch.stack([u, v], dim=2), torch.stack([u, -v], dim=1)
    updated = torch.baddbmm(curvature, factors, signs)
    curvature = torch.where(usable[:, None, None], updated, curvature)
    # an eigenvalue that has shrunk again and again may get its sign from rounding
    definite = torch.linalg.cholesky_ex(curvature).info == 0
    size = curvature.diagonal(dim1=1, dim2=2).abs().mean(dim=1)
    anew = torch.diag_embed(size.unsqueeze(1).expand_as(step))
    return torch.where(definite[:, None, None], curvature, anew), known


def definite_block(
    curvature: Float[Tensor, "B D D"], free: Bool[Tensor, "B D"], least: float = 1e-3
) -> Tensor:
    """The block of the free coordinates made definite, and the diagonal's size elsewhere.

    Eigenvalues are taken as absolute values, none under ``least`` of the largest; a zero block
    becomes I. A matrix that is not finite stays as it is.
    """
    finite = torch.isfinite(curvature).flatten(1).all(dim=1)[:, None, None]
    both_free = free.unsqueeze(2) & free.unsqueeze(1)
    values, vectors = torch.linalg.eigh(torch.where(finite & both_free, curvature, 0.0))
    values = values.abs()
    largest = values.amax(dim=1, keepdim=True)
    values = values.maximum(torch.where(largest > TINY, least * largest, 1.0))
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
    """g_i / (B_ii + λ + |g_i|/s_i) where a coordinate is not free, and 0 elsewhere.

    With the stiffness |g_i|/s_i held constant its derivative is the sensitivity of the optimum
    under a logarithmic barrier of strength μ, whose slack is s_i = μ/|g_i|: small, and not zero.
    s_i is at most 1, half of the box. The step itself points out of the box.
    """
    size = gradient.detach().abs()
    stiffness = size * (size / softness).clamp(min=1)
    own = curvature.diagonal(dim1=1, dim2=2) + damping.unsqueeze(1) + stiffness
    return gradient.masked_fill(free, 0.0) / (own + TINY)
