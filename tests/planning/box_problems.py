"""Functions to climb in a box, some with known optima, and options that climb them far."""

import torch
from torch import Tensor

from difftori.solvers.trust_region_solver import TrustRegionOptions

OPTIONS = TrustRegionOptions(
    iterations=60,
    backward_mode="implicit",
    backward_num_iterations=5,
    bound_softness=0.0,
    start_iterations=5,
    gain_tolerance=0.0,
)
GENERATOR = torch.Generator().manual_seed(0)
FACTOR = torch.randn(4, 4, dtype=torch.float64, generator=GENERATOR)
CURVATURE = FACTOR @ FACTOR.t() + 0.5 * torch.eye(4, dtype=torch.float64)
"""of a quadratic with a well-defined optimum"""


def quadratic(a: Tensor, z: Tensor) -> Tensor:
    """−½ (a − z)ᵀ C (a − z): the optimum is z where that is in the box."""
    d = a - z
    return -((d @ CURVATURE) * d).sum(dim=1, keepdim=True) / 2


def bumpy(a: Tensor, z: Tensor) -> Tensor:
    """Not a quadratic, and with more than one optimum in the box."""
    return quadratic(a, z) + torch.sin(3 * a + z).sum(dim=1, keepdim=True)


def zeros(batch: int, count: int = 1) -> Tensor:
    return torch.zeros(batch, count, 4, dtype=torch.float64)


def latents(batch: int, scale: float, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(batch, 4, dtype=torch.float64, generator=generator)


def box_optimum(z: Tensor) -> Tensor:
    """Of the quadratic, by projected gradient steps."""
    a = torch.zeros_like(z)
    step = 1 / torch.linalg.eigvalsh(CURVATURE).max()
    for _ in range(20_000):
        a = (a - step * (a - z) @ CURVATURE).clamp(-1, 1)
    return a
