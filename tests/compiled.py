"""Compiled against eager, in a process of its own: the compiler cannot read the shape checks that
the tests put into every function. Prints one JSON line for each comparison.

    python tests/compiled.py
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.utils import counters

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from builders import AFTER_SCHEDULES, generators, random_batch, random_obs, tiny_config, tiny_model
from difftori.compiling.compiler import EAGER, Compiler
from difftori.config import Config
from difftori.learning import losses
from difftori.learning.learner import Learner
from difftori.planning.actor import Actor
from parity import StrictCompiler

CONFIG = tiny_config("mode=back_plan", horizon=2, max_iterations=4, backward_num_iterations=2)
TRUST_REGION = tiny_config(
    "mode=back_plan", horizon=2, optimizer="trust_region", trust_region_iterations=3
)
"""more iterations would let the last digits grow"""


def plan(compiler: Compiler, config: Config = CONFIG) -> list[Tensor]:
    """The actions, and the gradient of the loss on them."""
    model, obs = tiny_model(config), random_obs(2)
    planned = Actor(model, config, compiler).act(
        obs,
        episode_start_step=AFTER_SCHEDULES,
        update_step=0,
        carry=None,
        explore=False,
        generators=generators(2),
        differentiate=True,
    )
    assert planned.differentiable_action is not None
    loss = losses.plan_loss(model, obs, planned.differentiable_action).sum()
    gradients = torch.autograd.grad(loss, model.plan_parameters(), materialize_grads=True)
    return [planned.action, *gradients]


def trust_region(compiler: Compiler) -> list[Tensor]:
    return plan(compiler, TRUST_REGION)


def search(compiler: Compiler) -> list[Tensor]:
    """The sampling planner's mean and action."""
    config = tiny_config("mode=default", horizon=2)
    planned = Actor(tiny_model(config), config, compiler).act(
        random_obs(2),
        episode_start_step=AFTER_SCHEDULES,
        update_step=0,
        carry=None,
        explore=False,
        generators=generators(2),
    )
    assert planned.carry is not None
    return [planned.action, planned.carry]


def learn(compiler: Compiler) -> list[Tensor]:
    """Losses, priorities and parameters after three updates."""
    model, generator = tiny_model(CONFIG), torch.Generator().manual_seed(0)
    learner = Learner(
        model, CONFIG.learner, generator=generator, max_nonfinite=1, compiler=compiler
    )
    for step in range(3):
        result = learner.update(random_batch(horizon=2, seed=step), step)
    return [*result.losses.values(), result.priority, *model.parameters()]


def compare(name: str, function: Any, backend: str) -> None:
    torch._dynamo.reset()
    counters.clear()
    compiled = function(StrictCompiler(True, backend=backend))
    graphs, breaks = counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())
    eager = function(EAGER)
    deviation = max(
        float((a - b).detach().abs().max()) for a, b in zip(compiled, eager, strict=True)
    )
    print(json.dumps({"name": name, "graphs": graphs, "breaks": breaks, "deviation": deviation}))


def main() -> None:
    backends = {"": "aot_eager"}
    if shutil.which("g++") or shutil.which("clang++"):
        backends[" by the real compiler"] = "inductor"
    for by, backend in backends.items():
        compare("plan" + by, plan, backend=backend)
        compare("trust region" + by, trust_region, backend=backend)
        compare("sampling planner" + by, search, backend=backend)
        compare("update" + by, learn, backend=backend)


if __name__ == "__main__":
    main()
