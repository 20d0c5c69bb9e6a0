"""Recording and replaying, by graphs that are emulated on the CPU."""

import logging
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from builders import AFTER_SCHEDULES, generators, random_batch, random_obs, tiny_config, tiny_model
from difftori.compiling.compiler import EAGER, Compiler
from difftori.compiling.cuda_graphs import WARM_UP_CALLS, CudaGraphs
from difftori.learning.learner import Learner
from difftori.planning.actor import Actor
from emulated_graphs import EmulatedGraph, emulate

CALLS = WARM_UP_CALLS + 3
"""the last ones are replays"""


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> CudaGraphs:
    return emulate(monkeypatch)


def counted(function: Callable[..., Tensor]) -> tuple[Callable[..., Tensor], list[None]]:
    """The function, and a list that grows with each time that Python runs it."""
    runs: list[None] = []

    def counting(*args: Tensor) -> Tensor:
        runs.append(None)
        return function(*args)

    return counting, runs


def test_python_runs_to_warm_up_and_to_record_and_then_no_more(graphs: CudaGraphs) -> None:
    function, runs = counted(lambda x: 2 * x)
    double = graphs(function, "doubling")
    results = []
    for number in range(CALLS):
        results.append(double(torch.full((2,), float(number))))
    assert len(runs) == WARM_UP_CALLS + 1
    # and no replay changes what an earlier one returned
    for number, result in enumerate(results):
        assert torch.equal(result, torch.full((2,), 2.0 * number))


def test_each_shape_has_a_recording_of_its_own(graphs: CudaGraphs) -> None:
    function, runs = counted(lambda x: x.cumsum(0))
    double = graphs(function, "doubling")
    for size in (2, 3) * CALLS:
        assert torch.equal(double(torch.ones(size)), torch.arange(1.0, size + 1))
    assert len(runs) == 2 * (WARM_UP_CALLS + 1)


def test_what_a_function_changes_is_changed_once_a_call(graphs: CudaGraphs) -> None:
    weight = torch.zeros(2)
    step = graphs(lambda x: weight.add_(x).sum(), "a step")
    for number in range(1, CALLS + 1):
        assert step(torch.ones(2)) == 2 * number
    assert torch.equal(weight, torch.full((2,), float(CALLS)))


def test_steps_aside_with_one_warning_where_nothing_can_be_recorded(
    graphs: CudaGraphs, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_graph(*args: object, **kwargs: object) -> None:
        raise RuntimeError("no graphs here\nand more")

    monkeypatch.setattr(torch.cuda, "graph", no_graph)
    double = graphs(lambda x: 2 * x, "doubling")
    for _ in range(CALLS):
        assert torch.equal(double(torch.ones(2)), torch.full((2,), 2.0))
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert "doubling cannot be recorded as a CUDA graph (no graphs here and more)" in warning


def test_a_recording_that_fails_leaves_its_memory_to_no_other(
    graphs: CudaGraphs, monkeypatch: pytest.MonkeyPatch
) -> None:
    pools: list[object] = []

    class Graph(EmulatedGraph):
        def __enter__(self) -> "Graph":
            if len(pools) == 1:
                raise RuntimeError("allocates by itself")
            return super().__enter__()

    def new_pool() -> object:
        pools.append(object())
        return pools[-1]

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", new_pool)
    for name in ("one that fails", "one after it", "and another"):
        function, runs = counted(lambda x: 2 * x)
        double = graphs(function, name)
        for _ in range(CALLS):
            double(torch.ones(2))
        assert (len(runs) == CALLS) == (name == "one that fails")
    assert len(pools) == 2


def test_nothing_is_compiled_while_recording(
    graphs: CudaGraphs, monkeypatch: pytest.MonkeyPatch
) -> None:
    # compiled code runs in a CUDA graph, but not in one that is emulated
    monkeypatch.setattr(torch.cuda, "graph", lambda *args, **options: nullcontext())
    compiled: list[None] = []

    def backend(module: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        compiled.append(None)
        return module.forward

    double = graphs(Compiler(True, backend=backend)(lambda x: 2 * x, "doubling"), "doubling")
    column = torch.ones(4, 3)[:, :1]  # in a recording's own memory it is in order
    for _ in range(WARM_UP_CALLS + 1):
        double(column)
    assert len(compiled) == 1


def test_runs_functions_as_they_are_on_a_cpu() -> None:
    function, runs = counted(lambda x: 2 * x)
    double = CudaGraphs(True)(function, "doubling")
    for _ in range(CALLS):
        double(torch.ones(2))
    assert len(runs) == CALLS
    assert CudaGraphs(False)(function, "doubling") is function


@pytest.mark.parametrize("horizon", [1, 3])
@pytest.mark.parametrize(
    ("mode", "optimizer", "differentiate"),
    [
        ("default", "published", False),
        ("theseus_forward", "published", False),
        ("back_plan", "published", True),
        ("theseus_forward", "trust_region", False),
        ("back_plan", "trust_region", True),
    ],
)
def test_recorded_plans_equal_eager_ones(
    graphs: CudaGraphs, mode: str, optimizer: str, differentiate: bool, horizon: int
) -> None:
    keys = {"horizon": horizon, "max_iterations": 30, "step_size": 1e-4, "optimizer": optimizer}
    config = tiny_config(f"mode={mode}", **keys)
    model = tiny_model(config)
    actors = [Actor(model, config, Compiler(False, graphs=graphs)), Actor(model, config, EAGER)]
    noise = [generators(2), generators(2)]
    carries: list[Tensor | None] = [None, None]
    for call in range(CALLS):
        plans = [
            actor.act(
                random_obs(2, seed=call),
                episode_start_step=AFTER_SCHEDULES,
                update_step=1000 * call,
                carry=carry,
                explore=True,
                generators=streams,
                differentiate=differentiate,
            )
            for actor, carry, streams in zip(actors, carries, noise, strict=True)
        ]
        carries = [plan.carry for plan in plans]
        ours, theirs = plans
        assert torch.equal(ours.action, theirs.action)
        assert {name: value.tolist() for name, value in ours.stats.items()} == {
            name: value.tolist() for name, value in theirs.stats.items()
        }
        for parameter in model.parameters():
            parameter.data.mul_(1.01)  # in place, as learning does
    if differentiate:
        gradients = [
            torch.autograd.grad(p.differentiable_action.sum(), model._dynamics.parameters())
            for p in plans
        ]
        assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("modality", ["state", "pixels"])
def test_recorded_updates_equal_eager_ones(graphs: CudaGraphs, modality: str) -> None:
    config = tiny_config("mode=back_plan", f"modality={modality}")
    compilers, models, learners = (Compiler(False, graphs=graphs), EAGER), [], []
    for compiler in compilers:
        models.append(tiny_model(config))
        noise = torch.Generator().manual_seed(0)
        learners.append(
            Learner(models[-1], config.learner, generator=noise, max_nonfinite=1, compiler=compiler)
        )
    for step in range(CALLS):
        batch = random_batch(seed=step, modality=modality)
        ours, theirs = (learner.update(batch, step) for learner in learners)
        assert torch.equal(ours.priority, theirs.priority)
        assert ours.losses == theirs.losses
    for a, b in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(a, b)


def test_a_loaded_learner_goes_on_with_what_was_recorded(graphs: CudaGraphs) -> None:
    """Moments are loaded in place."""
    config = tiny_config("mode=back_plan")
    model, noise = tiny_model(config), torch.Generator().manual_seed(0)
    compiler = Compiler(False, graphs=graphs)
    learner = Learner(model, config.learner, generator=noise, max_nonfinite=1, compiler=compiler)
    for step in range(CALLS):
        learner.update(random_batch(), step)
    learner.load_state_dict(learner.state_dict())
    for step in range(CALLS):
        learner.update(random_batch(), step)
    steps = learner.state_dict()["model_optimizer"]["0"]["step"]
    assert steps == 2 * CALLS
