"""The planners of ``planning.py`` on one trained model, and what is measured of each."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from difftori.agent import Agent, load_agent
from difftori.config import from_flat
from difftori.planning.actor import Actor
from difftori.planning.mppi import MppiPlanner
from difftori.planning.returns import plan_return, policy_rollout
from difftori.solvers.quasi_newton import free_coordinates
from difftori.solvers.solution import flatten
from difftori.training.seeding import generator
from difftori.types import Plan

DEVICE = torch.device("cpu")
NOISE_STD = 0.3
"""of the policy that visits the states, in actions"""
DIFFERENTIATE_EVERY = 5
"""steps of the streams"""


def trained_agent(run: Path) -> Agent:
    """With the weights of the end of training, if there are any. Raises ConfigError."""
    weights = run / "models" / "model.pt"
    agent = load_agent(run, weights if weights.exists() else None, device="cpu")
    agent.actor._model.requires_grad_(False)
    return agent


def planner_keys(name: str) -> dict[str, Any]:
    """The keys that a planner's name sets. Raises ValueError for an unknown name."""
    kind, _, number = name.rpartition("-") if name[-1:].isdigit() else (name, "", "")
    optimizes = {
        **{"warmup_planner": "trajectory", "planner": "trajectory"},
        "backward_mode": "truncated",
    }
    sizes: dict[str, Any] = {}
    match kind:
        case "policy" if not number:
            return {}
        case "mppi":
            if number:
                sizes = {"num_samples": int(number), "num_elites": max(1, int(number) // 8)}
            return {"warmup_planner": "mppi", "planner": "mppi", **sizes}
        case "published" if number:
            return {**optimizes, "optimizer": "published", "max_iterations": int(number)}
        case "trust-region" | "last-plan":
            if number:
                sizes = {"trust_region_iterations": int(number)}
            starts = {"last_plan_as_start": kind == "last-plan"}
            return {**optimizes, "optimizer": "trust_region", **starts, **sizes}
    known = "policy, mppi[-N], published-N, trust-region[-N], last-plan[-N]"
    raise ValueError(f"planner {name} is none of {known}")


class _Policy:
    """The policy's rollout as a planner."""

    def __init__(self, agent: Agent, horizon: int) -> None:
        self._model = agent.actor._model
        self._horizon = horizon

    @torch.no_grad()
    def act(self, obs: Tensor, **_: Any) -> Plan:
        actions = policy_rollout(self._model, self._model.encode(obs), self._horizon)
        finite = torch.isfinite(actions[0]).all(dim=1)
        return Plan(actions[0], finite, actions, first_guess=actions)


class _Mppi(MppiPlanner):
    """Plans as it does; ``actions`` is the best candidate of the last round, not the mean."""

    def plan(self, obs: Tensor, **arguments: Any) -> Plan:
        plan = super().plan(obs, **arguments)
        rows = torch.arange(len(obs))
        best = self._candidates[:, rows, self._values.argmax(dim=1)]
        return replace(plan, actions=best)

    def _score(self, spread: float, z_all: Tensor, candidates: Tensor, draws: Tensor) -> Tensor:
        self._values = super()._score(spread, z_all, candidates, draws)
        self._candidates = candidates
        return self._values


def make_planner(name: str, agent: Agent, horizon: int, keys: Mapping[str, Any]) -> Any:
    """Something that acts as an ``Actor`` does, always with this horizon."""
    if name == "policy":
        return _Policy(agent, horizon)
    fixed = {"plan_gradient": "none", "horizon": horizon, "horizon_schedule": horizon}
    config = from_flat({**agent.config.flat(), **planner_keys(name), **keys, **fixed})
    actor = Actor(agent.actor._model, config)
    if config.actor.planner == "mppi":
        actor._mppi = _Mppi(agent.actor._model, config.mppi)
    return actor


@dataclass
class Measured:
    """One planner at one horizon."""

    gains: list[float] = field(default_factory=list)
    """of G over the policy's rollout"""
    distances: list[float] = field(default_factory=list)
    """‖∇G‖ over the free coordinates of each plan"""
    iterations: list[float] = field(default_factory=list)
    zero_gradients: list[bool] = field(default_factory=list)
    milliseconds: dict[int, list[float]] = field(default_factory=lambda: {1: [], 10: []})
    """of processor time for a plan, by the size of its batch"""
    returns: list[float] = field(default_factory=list)
    """of real episodes"""


def streams(agent: Agent, steps: int, count: int = 10) -> Tensor:
    """Observations ``[steps, count, *O]`` of that many episodes, each recorded at another time.

    The policy acts, with noise.
    """
    model, draws = agent.actor._model, torch.Generator().manual_seed(0)
    last_start = max(0, agent.spec.episode_length - steps - 1)
    recorded = []
    for number in range(count):
        env = agent.make_control_env()
        obs, _ = env.reset(seed=2000 + number)
        start, kept = number * last_start // max(count - 1, 1), []
        for step in range(start + steps):
            if step >= start:
                kept.append(np.array(obs))
            with torch.no_grad():
                mean = model.policy(model.encode(torch.as_tensor(np.asarray(obs)).unsqueeze(0)))
            action = mean[0] + NOISE_STD * torch.randn(mean.shape[1], generator=draws)
            obs, _, ended, cut_off, _ = env.step(action.clamp(-1, 1).numpy())
            if ended or cut_off:
                obs, _ = env.reset(seed=3000 + number)
        env.close()
        recorded.append(np.stack(kept))
    return torch.as_tensor(np.stack(recorded, axis=1))


def plan_along(
    planners: Mapping[str, Any], agent: Agent, observations: Tensor, results: Mapping[str, Measured]
) -> Iterator[int]:
    """Every planner plans at each step of the streams, in turns, with its own carry.

    Ten streams are planned as a batch, the first one alone too. Yields after each step.
    """
    model, discount = agent.actor._model, agent.config.learner.discount
    for batch in (10, 1):
        carries: dict[str, Any] = dict.fromkeys(planners)
        generators = {
            name: [generator(DEVICE, i, "benchmark") for i in range(batch)] for name in planners
        }
        for step, obs in enumerate(observations[:, :batch]):
            with torch.no_grad():
                z = model.encode(obs)
            for name, planner in planners.items():
                arguments = {
                    "episode_start_step": agent.trained.agent_step,
                    "update_step": agent.trained.update_step,
                    "carry": carries[name],
                    "explore": False,
                    "generators": generators[name],
                }
                start = time.process_time()
                plan = planner.act(obs, **arguments)
                elapsed = 1e3 * (time.process_time() - start) / batch
                result, carries[name] = results[name], plan.carry
                result.milliseconds[batch].append(elapsed)
                if batch == 1:
                    continue
                _judge(result, model, z, plan, discount)
                if "plan_iterations" in plan.stats and step % DIFFERENTIATE_EVERY == 0:
                    result.zero_gradients += _zero_gradients(planner, obs, arguments)
            yield step


def _judge(result: Measured, model: Any, z: Tensor, plan: Plan, discount: float) -> None:
    """G of the plan and its slope, by the return's definition and autograd."""
    actions = plan.actions.detach().clamp(-1, 1).requires_grad_()
    G = plan_return(model, z, actions, discount).squeeze(1)
    gradient = flatten(torch.autograd.grad(G.sum(), actions)[0])
    free = free_coordinates(flatten(actions.detach()), gradient)
    with torch.no_grad():
        guess = policy_rollout(model, z, len(actions))
        G_policy = plan_return(model, z, guess, discount).squeeze(1)
    result.gains += (G.detach() - G_policy).tolist()
    result.distances += (gradient * free).norm(dim=1).tolist()
    if "plan_iterations" in plan.stats:
        result.iterations += plan.stats["plan_iterations"].tolist()


def _zero_gradients(planner: Any, obs: Tensor, arguments: Mapping[str, Any]) -> list[bool]:
    """For each row, whether its planned action has a derivative of exactly zero.

    By the observation: the weights act on the plan through the same derivative of the solve.
    """
    leaf = obs.clone().requires_grad_()
    plan = planner.act(leaf, **arguments, differentiate=True)
    total = plan.differentiable_action.sum()
    (gradient,) = torch.autograd.grad(total, leaf, allow_unused=True, materialize_grads=True)
    return gradient.flatten(1).abs().sum(dim=1).eq(0).tolist()


def rows(task: str, horizon: int, results: Mapping[str, Measured]) -> list[dict[str, Any]]:
    """Two for each planner, one for each size of batch; gains are shares of MPPI's."""

    def mean(values: list[Any]) -> float | None:
        return float(np.mean(values)) if values else None

    table = []
    for (name, result), batch in product(results.items(), (1, 10)):
        spread = np.std(result.returns, ddof=1) if len(result.returns) > 1 else 0.0
        table.append(
            {
                **{"task": task, "planner": name, "horizon": horizon, "batch": batch},
                "gain_share": float(np.mean(result.gains) / np.mean(results["mppi"].gains)),
                "ms": float(np.median(result.milliseconds[batch])),
                "return_mean": mean(result.returns),
                "return_interval": float(1.96 * spread / max(len(result.returns), 1) ** 0.5),
                "zero_gradient_share": mean(result.zero_gradients),
                "iterations": mean(result.iterations),
                "distance": float(np.median(result.distances)),
            }
        )
    return table
