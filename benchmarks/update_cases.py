"""Rows of ``speed.py`` about updates."""

import copy
from collections.abc import Callable
from typing import Any

import machine
import published
from bench import Bench, Case

from difftori.compiling.compiler import EAGER
from difftori.compiling.float32_matmul import set_tf32
from difftori.config import Config
from difftori.learning.learner import Learner
from difftori.model.world_model import WorldModel


def new_learner(bench: Bench, model: WorldModel, config: Config, eager: bool = False) -> Learner:
    compiler = EAGER if eager else bench.compiler()
    return Learner(
        model, config.learner, generator=bench.generator(), max_nonfinite=1, compiler=compiler
    )


def update(
    bench: Bench,
    name: str,
    modality: str,
    precision: str,
    size: int,
    reach: float,
    preset: str = "full",
) -> Case:
    """``precision`` fp32 | tf32 | bf16; the published way has the first two."""
    tf32 = precision == "tf32"
    keys = {"precision": "fp32" if tf32 else precision}
    groups = (f"modality={modality}", f"preset={preset}")
    config = bench.config(*groups, **keys)
    model = bench.model(config)
    agent = published.Agent(copy.deepcopy(model), config)
    learner = new_learner(bench, model, config)
    batch = bench.batch(config, size)
    plain = new_learner(bench, copy.deepcopy(model), config, eager=True)
    flops = machine.count_flops(lambda: plain.update(batch, 1))
    rate = bench.bf16_rate if precision == "bf16" else bench.fp32_rate
    sizes = "" if preset == "full" else f" of preset={preset}"
    return Case(
        name,
        f"one update from {modality}{sizes}, batch {size}, {precision}",
        reach,
        _rounded(tf32, lambda: agent.update(batch, 0)),
        _rounded(tf32, lambda: learner.update(batch, 0)),
        1e3 * flops / rate,
        _rounded(tf32, lambda: agreement(bench, groups, keys, min(size, 128)))(),
        repeats=8,
    )


def _rounded(tf32: bool, function: Callable[[], Any]) -> Callable[[], Any]:
    """``function`` with products rounded to TF32, or not."""

    def run() -> Any:
        set_tf32(tf32)
        result = function()
        set_tf32(False)
        return result

    return run


def agreement(bench: Bench, groups: tuple[str, ...], keys: dict[str, str], size: int) -> str:
    """Of the losses of two updates from the same weights, without noise and augmentation."""
    exact = {"min_std": 0, "std_schedule": 0, "augmentation": "none"}
    config = bench.config(*groups, **keys, **exact)
    model = bench.model(config)
    agent = published.Agent(copy.deepcopy(model), config)
    learner = new_learner(bench, model, config, eager=True)
    batch = bench.batch(config, size)
    off = 0.0
    for step in range(2):
        ours, theirs = learner.update(batch, step).losses, agent.update(batch, step)[0]
        compared = [name for name in theirs if name != "grad_norm"]
        off = max(off, *(abs(float(ours[n]) - theirs[n]) / abs(theirs[n]) for n in compared))
    return f"losses of two updates {off:.0e}"
