"""Rows of ``speed.py`` about planned actions."""

from typing import Any

import machine
import published
import torch
from bench import Bench, Case
from torch import Tensor

from difftori.config import Config
from difftori.learning import losses
from difftori.learning.plan_gradient import PlanGradient
from difftori.planning.mppi import MppiPlanner
from difftori.planning.trajectory import TrajectoryPlanner


class Sides:
    """A planner of each kind on one model."""

    def __init__(self, bench: Bench, config: Config) -> None:
        self.bench = bench
        self.config = config
        self.model = bench.model(config)
        self.horizon = config.learner.horizon
        self.ours = TrajectoryPlanner(self.model, config.trajectory, bench.compiler())
        learning = config.plan_gradient
        self.plan_gradient = PlanGradient(
            self.model, lr=learning.lr, max_norm=learning.grad_clip_norm_a, max_nonfinite=1
        )
        self.reference = published.Planner(self.model, config, horizon=self.horizon)
        self.agent = published.Agent(self.model, config)

    def plan(self, obs: Tensor, differentiate: bool = False) -> Any:
        return self.ours.plan(
            obs,
            horizon=self.horizon,
            explore=False,
            generators=[self.bench.generator()] * len(obs),
            differentiate=differentiate,
        )

    def plan_and_learn(self, obs: Tensor) -> Tensor:
        plan = self.plan(obs, differentiate=True)
        self.plan_gradient.accumulate(obs, plan.differentiable_action)
        return plan.action

    def reference_plan_and_learn(self, obs: Tensor) -> Tensor:
        best, last = self.reference.plan(obs, differentiate=True)
        self.agent.plan_loss(obs, last)
        return best

    def agreement(self, count: int) -> str:
        """Of actions and of the loss's gradient, over ``count`` observations."""
        obs = self.bench.observations(self.model, count)
        plan = self.plan(obs, differentiate=True)
        ours = losses.plan_loss(self.model, obs, plan.differentiable_action).sum()
        parameters = self.model.plan_parameters()
        gradient = torch.autograd.grad(ours, parameters, allow_unused=True)
        best = [self.reference_plan_and_learn(row) for row in obs.split(1)]
        theirs = [p.grad for p in parameters]
        self.model.zero_grad()
        off = float((torch.cat(best) - plan.action).abs().max())
        flat = [
            torch.cat([obs.new_zeros(1).float() if g is None else g.flatten() for g in gradients])
            for gradients in (gradient, theirs)
        ]
        cosine = float(torch.cosine_similarity(*(part.double() for part in flat), dim=0))
        steps = f"{int(plan.stats['plan_iterations'][0])}/{self.reference.iterations} iterations"
        return f"{steps}, actions {off:.0e}, gradient cosine {cosine:.5f}"


def plan(
    bench: Bench, name: str, what: str, count: int, reach: float, repeats: int, preset: str = "full"
) -> Case:
    """``count`` actions at once against one after the other."""
    config = bench.config(f"preset={preset}")
    sides = Sides(bench, config)
    obs = bench.observations(sides.model, count)
    return Case(
        name,
        what,
        reach,
        lambda: [sides.reference.plan(row, differentiate=False) for row in obs.split(1)],
        lambda: sides.plan(obs),
        bench.plan_floor_ms(sides.model, config, 0),
        sides.agreement(max(4, count)),
        repeats=repeats,
    )


def plan_and_learn(
    bench: Bench, name: str, what: str, modality: str, reach: float, repeats: int
) -> Case:
    """One action with the loss's gradient."""
    config = bench.config(f"modality={modality}")
    sides = Sides(bench, config)
    obs = bench.observations(sides.model, 1)
    floor_ms = bench.plan_floor_ms(sides.model, config, config.trajectory.backward_num_iterations)
    if modality == "pixels":
        encoding = machine.count_flops(lambda: sides.model.encode(obs)) / bench.fp32_rate
        floor_ms += 3e3 * encoding
    return Case(
        name,
        what,
        reach,
        lambda: sides.reference_plan_and_learn(obs),
        lambda: sides.plan_and_learn(obs),
        floor_ms,
        sides.agreement(2 if modality == "pixels" else 4),
        repeats=repeats,
    )


def sampling(bench: Bench, name: str, what: str, reach: float, preset: str = "full") -> Case:
    """One action of the sampling planner."""
    config = bench.config(f"preset={preset}")
    model, horizon = bench.model(config), config.learner.horizon
    ours = MppiPlanner(model, config.mppi, bench.compiler())
    obs = bench.observations(model, 1)

    def plan(seed: int = 0) -> Tensor:
        return ours.plan(
            obs,
            horizon=horizon,
            std_floor=config.mppi.min_std,
            carry=None,
            explore=False,
            generators=[bench.generator(seed)],
        ).action

    def reference(seed: int = 0) -> Tensor:
        return published.sample_plan(model, config.mppi, obs, horizon, bench.generator(seed))

    off = max(float((plan(seed) - reference(seed)).abs().max()) for seed in range(4))
    flops = machine.count_flops(reference)
    floor_ms = 1e3 * flops / bench.fp32_rate
    return Case(name, what, reach, reference, plan, floor_ms, f"actions {off:.0e}")
