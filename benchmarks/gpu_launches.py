"""What a plan and an update ask of a GPU, counted by the profiler; the last line is JSON."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from bench import WAYS, Bench
from plan_cases import Sides
from update_cases import new_learner

from difftori.devices import make_current, resolve_device

COUNTED = {
    "launches": ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx"),
    "graphs": ("cudaGraphLaunch",),
    "waits": ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize"),
    "copies": ("cudaMemcpyAsync", "cudaMemcpy"),
}
"""calls of CUDA by what they are; a wait of the profiler's own is among the waits"""


def count(function: Callable[[], Any]) -> dict[str, int | float]:
    for _ in range(5):  # compile, record
        function()
    torch.cuda.synchronize()
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as recorded:
        function()
    events = recorded.key_averages()
    found: dict[str, int | float] = {
        kind: sum(event.count for event in events if event.key in names)
        for kind, names in COUNTED.items()
    }
    busy_us = sum(event.self_device_time_total for event in events)
    return found | {"GPU busy, ms": round(busy_us / 1e3, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    device = resolve_device(parser.parse_args().device)
    if device.type != "cuda":
        raise SystemExit("launches are counted on a GPU only")
    make_current(device)
    found = {f"{way}: {what}": calls for way in WAYS for what, calls in of(way, device).items()}
    print(json.dumps({"calls": found}))


def of(way: str, device: torch.device) -> dict[str, Any]:
    bench = Bench(way, device)
    config = bench.config()
    sides = Sides(bench, config)
    obs, batch = bench.observations(sides.model, 1), bench.batch(config, 512)
    learner = new_learner(bench, sides.model, config)
    return {
        "plan": count(lambda: sides.plan(obs)),
        "plan with gradient": count(lambda: sides.plan_and_learn(obs)),
        "update": count(lambda: learner.update(batch, 0)),
    }


if __name__ == "__main__":
    main()
