"""The plan's derivative by each backward mode against finite differences of the solve.

    python benchmarks/plan_derivative.py logs/cheetah-run/state/default/default/1

The derivative is that of wᵀa_0, w random, by z. It is compared with central differences of the
same solve at two points: the ``optimum``, where the solve has gone on until nothing is gained, and
the ``plan`` after the default iterations. For each backward mode: the median over plans of the
cosine and of the ratio of lengths, and the largest length, in float64 with hard bounds. ms are
of processor time for a plan with its backward pass, in batches of ten.
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from planners import make_planner, streams, trained_agent

from difftori.planning.returns import policy_rollout
from difftori.solvers.solution import flatten
from difftori.solvers.trust_region_solver import (
    TrustRegionOptions,
    TrustRegionSolution,
    TrustRegionSolver,
)

MODES = (("truncated", 1), ("truncated", 5), ("truncated", 20), ("implicit", 1))
EPSILON = 1e-4
ENOUGH_ITERATIONS = 400


def differences(function: Callable[[Tensor, Tensor], Tensor], z: Tensor, starts: Tensor) -> Tensor:
    """Gradients ``[B, Z]`` of a row-wise function ``[B]``, every shifted row at once."""
    batch, dim = z.shape
    shift = EPSILON * torch.eye(dim, dtype=z.dtype)
    shifted = torch.cat([z.unsqueeze(1) + shift, z.unsqueeze(1) - shift], dim=1).flatten(0, 1)
    values = function(shifted, starts.repeat_interleave(2 * dim, dim=0)).view(batch, 2, dim)
    return (values[:, 0] - values[:, 1]) / (2 * EPSILON)


def compare(run: Path, horizon: int, spread: float, steps: int) -> None:
    agent = trained_agent(run)
    observations = streams(agent, steps)
    model = agent.actor._model.double()
    with torch.no_grad():
        z = model.encode(observations.double().flatten(0, 1))
        start = flatten(policy_rollout(model, z, horizon)).unsqueeze(1)
    keys = {"plan_spread": spread, "explore_spread": spread, "bound_softness": 0.0}
    planned = make_planner("trust-region", agent, horizon, keys)._trajectory._solvers[spread]
    return_fn, gradient_fn = planned._layers._functions
    options: TrustRegionOptions = planned._options
    draws = torch.Generator().manual_seed(0)
    w = torch.randn(model.action_dim, dtype=z.dtype, generator=draws)

    def solver(**changes: Any) -> TrustRegionSolver:
        return TrustRegionSolver(return_fn, replace(options, **changes), gradient_fn)

    def chosen(flat: Tensor) -> Tensor:
        return flat[:, : len(w)] @ w

    with torch.no_grad():
        far = solver(iterations=ENOUGH_ITERATIONS, gain_tolerance=0.0)
        optimum = far.solve(start, z)
    points = {
        "optimum": (optimum.best.unsqueeze(1), optimum.curvature, ENOUGH_ITERATIONS),
        "plan": (start, None, options.iterations),
    }
    print(f"\n{agent.spec.task}, H = {horizon}, {len(z)} plans\n")
    print("| at | backward mode | cosine | length | largest length | ms |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for point, (begin, curvature, iterations) in points.items():

        def solved(z: Tensor, starts: Tensor, iterations: int = iterations) -> Tensor:
            return chosen(solver(iterations=iterations).solve(starts, z).best)

        with torch.no_grad():
            numeric = differences(solved, z, begin)
        for mode, count in MODES:
            modes: dict[str, Any] = {"backward_mode": mode, "backward_num_iterations": count}
            differentiated = partial(solver(iterations=iterations, **modes).solve, begin)
            gradient, ms = derivative(partial(differentiated, curvature=curvature), z, chosen)
            moved = numeric.norm(dim=1) > 1e-6
            cosine = cosine_similarity(gradient, numeric)[moved].median()
            length = (gradient.norm(dim=1) / numeric.norm(dim=1))[moved].median()
            largest = gradient.norm(dim=1).max()
            row = f"{cosine:.3f} | {length:.2f} | {largest:.2g} | {ms:.2f}"
            print(f"| {point} | {mode} {count} | {row} |")


def derivative(
    solve: Callable[[Tensor], TrustRegionSolution], z: Tensor, chosen: Callable[[Tensor], Tensor]
) -> tuple[Tensor, float]:
    """Of the chosen number of each plan by z, and milliseconds per plan."""
    latent, begin = z.clone().requires_grad_(), time.process_time()
    (gradient,) = torch.autograd.grad(chosen(solve(latent).last).sum(), latent)
    return gradient, 1e3 * (time.process_time() - begin) / len(z)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run's folder")
    parser.add_argument("--horizon", type=int, default=3, metavar="H", help="agent steps")
    mean = "κ of the plan's last value, min Q + κ |Q1 - Q2|: 0.5 is the mean, which has no kinks"
    parser.add_argument("--spread", type=float, default=0.0, metavar="κ", help=mean)
    parser.add_argument("--steps", type=int, default=1, help="of ten streams: plans / 10")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for run in arguments.runs:
        compare(run, arguments.horizon, arguments.spread, arguments.steps)


if __name__ == "__main__":
    main()
