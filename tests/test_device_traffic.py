"""How often the CPU waits for the GPU, and how much it asks of it, counted without a GPU.

The numbers are the promise: a change that adds a copy or a wait has to change them here.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from builders import AFTER_SCHEDULES, random_batch, tiny_config, tiny_spec
from difftori.compiling.compiler import Compiler
from difftori.compiling.cuda_graphs import WARM_UP_CALLS, CudaGraphs
from difftori.config import Config
from difftori.envs import ControlEnv
from difftori.learning.learner import Learner
from difftori.learning.plan_gradient import PlanGradient
from difftori.learning.plan_gradient_ways import PerEpisode, PerStep, PlanGradientWay
from difftori.model.world_model import WorldModel
from difftori.planning.actor import Actor
from difftori.training.collector import Collector
from difftori.training.state import Averages, Counters
from fake_cuda import (
    FakeEvent,
    FakeIndexing,
    FakeUploads,
    Traffic,
    fake_noise,
    move_weights,
)

ITERATIONS = 25
"""of Levenberg–Marquardt: two chunks of ten and one of less without gradient, five with"""


@pytest.fixture
def traffic(monkeypatch: pytest.MonkeyPatch) -> Traffic:
    """Of what is done in ``on_gpu``; recordings count their replays."""
    traffic = Traffic()

    class Recording:
        def replay(self) -> None:
            traffic.replays += 1

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Recording)
    monkeypatch.setattr(torch.cuda, "graph", lambda *args, **kwargs: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    fake_noise(monkeypatch, "cuda")
    return traffic


@contextlib.contextmanager
def on_gpu(traffic: Traffic, model: WorldModel) -> Iterator[None]:
    """Where the model lies on a GPU. No tensor has values there, and backward passes are left out.

    Actors are made before: a planner computes with its networks to know them.
    """

    def gradient(loss: Tensor, inputs: Sequence[Tensor], **kwargs: Any) -> list[Tensor]:
        return [torch.empty_like(tensor) for tensor in inputs]

    fake = FakeTensorMode(allow_non_fake_inputs=True)
    no_gradients = mock.patch.object(torch.autograd, "grad", gradient)
    with no_gradients, fake, torch.no_grad(), FakeIndexing(), FakeUploads(traffic), traffic:
        move_weights(model, "cuda")
        yield


@dataclass(frozen=True)
class Count:
    waits: int
    copies: int
    replays: int


def count(traffic: Traffic, function: Any) -> Count:
    """Of one call, after those that warm up and record."""
    for _ in range(WARM_UP_CALLS + 1):
        function()
    traffic.waits.clear()
    traffic.copies.clear()
    traffic.launches = traffic.replays = 0
    function()
    return Count(len(traffic.waits), len(traffic.copies), traffic.replays)


def new_actor(model: WorldModel, config: Config, graphs: bool) -> Actor:
    return Actor(model, config, Compiler(False, graphs=CudaGraphs(graphs)))


def act(actor: Actor, carry: Tensor | None = None, differentiate: bool = False) -> None:
    actor.act(
        torch.empty(1, 5, device="cuda"),
        episode_start_step=AFTER_SCHEDULES,
        update_step=0,
        carry=carry,
        explore=True,
        generators=[torch.Generator()],
        differentiate=differentiate,
    )


@pytest.mark.parametrize(
    ("mode", "graphs", "expected", "most_launches"),
    [
        # The sampling planner: everything but encoding and noise is one recording.
        ("default", True, Count(waits=0, copies=0, replays=1), 70),
        ("default", False, Count(waits=0, copies=0, replays=0), 450),
        # first iteration, 10, 9; first of the last five, 4, end; one look that is read late
        ("theseus_forward", True, Count(waits=0, copies=1, replays=6), 220),
        ("theseus_forward", False, Count(waits=0, copies=1, replays=0), 5300),
    ],
)
def test_a_plan_waits_for_nothing(
    traffic: Traffic, mode: str, graphs: bool, expected: Count, most_launches: int
) -> None:
    config = tiny_config(f"mode={mode}", max_iterations=ITERATIONS)
    model = WorldModel(tiny_spec(), config.model)
    actor = new_actor(model, config, graphs)
    with on_gpu(traffic, model):
        carry = torch.empty(1, 3, 2, device="cuda") if mode == "default" else None
        assert count(traffic, lambda: act(actor, carry)) == expected
    assert traffic.launches < most_launches


@pytest.mark.parametrize(("graphs", "most_launches"), [(True, 60), (False, 500)])
def test_an_update_waits_once(traffic: Traffic, graphs: bool, most_launches: int) -> None:
    config = tiny_config("mode=back_plan")
    batch, names = random_batch(), ("obs", "next_obs", "action", "reward", "terminated", "weight")
    model = WorldModel(tiny_spec(), config.model)
    with on_gpu(traffic, model):
        learner = Learner(
            model,
            config.learner,
            generator=torch.Generator(),
            max_nonfinite=1,
            compiler=Compiler(False, graphs=CudaGraphs(graphs)),
        )
        parts = {name: torch.empty(getattr(batch, name).shape, device="cuda") for name in names}
        moved = replace(batch, **parts)
        counted = count(traffic, lambda: learner.update(moved, 0))
    # losses and priorities come together
    assert counted == Count(waits=1, copies=0, replays=1 if graphs else 0)
    assert traffic.launches < most_launches


class Still:
    """An environment in which nothing happens."""

    def reset(self, seed: int) -> tuple[np.ndarray, dict[str, float]]:
        return np.zeros(5, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, float]]:
        return np.zeros(5, np.float32), 0.0, False, False, {"env_steps": 2}


@pytest.mark.parametrize(
    ("mode", "way", "expected"),
    [
        # the observation goes up; the action, whether it is finite, and the log's numbers come down
        ("default", None, Count(waits=1, copies=1, replays=1)),
        ("theseus_forward", None, Count(waits=1, copies=2, replays=6)),
        # the loss through the plan is read at the next step
        ("back_plan", PerEpisode, Count(waits=1, copies=3, replays=4)),
        # its step of Adam after each plan logs the gradient's norm
        ("back_plan", PerStep, Count(waits=2, copies=3, replays=4)),
    ],
)
def test_an_agent_step_waits_once(
    traffic: Traffic, mode: str, way: type[PerEpisode] | None, expected: Count
) -> None:
    config = tiny_config(f"mode={mode}", max_iterations=ITERATIONS, seed_steps=0)
    model = WorldModel(tiny_spec(), config.model)
    actor = new_actor(model, config, graphs=True)
    with on_gpu(traffic, model):
        gradient = PlanGradient(model, lr=config.learner.lr, max_norm=1.0, max_nonfinite=1)
        collector = Collector(
            actor,
            model,
            way(gradient, 1.0) if way else PlanGradientWay(),
            env=None,
            make_env=lambda: cast(ControlEnv, Still()),
            averages=Averages(),
            generator=torch.Generator(),
            run=config.run,
        )
        counters = Counters(agent_step=AFTER_SCHEDULES)
        assert count(traffic, lambda: collector.step(counters)) == expected
