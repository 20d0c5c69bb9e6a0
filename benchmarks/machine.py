"""What this machine can do at most: the floors under the times that ``speed.py`` measures."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from difftori.model.world_model import WorldModel


def median_ms(function: Callable[[], Any], repeats: int) -> float:
    """Median time of a call after two to warm up, ms."""
    for _ in range(2):
        function()
    return statistics.median(timed_ms(function) for _ in range(repeats))


def timed_ms(function: Callable[[], Any]) -> float:
    """Until the GPU, if there is one, has done all that it was asked for."""
    begin = time.perf_counter()
    function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - begin)


MOST_THREADS = torch.get_num_threads()


def thread_counts() -> list[int]:
    """The most first: what is compiled then is compiled for it."""
    return sorted({1, MOST_THREADS}, reverse=True)


def product_rate(dtype: torch.dtype, device: torch.device) -> float:
    """FLOP/s of a product [2560, 512] · [512, 512], by the fastest kernel and thread count."""
    a, b = (torch.randn(rows, 512).to(device, dtype) for rows in (2560, 512))
    flops, best = 2 * 2560 * 512 * 512, 0.0
    before = torch.get_num_threads(), torch.get_float32_matmul_precision()
    for threads in thread_counts():
        # on a GPU the second would round to TF32
        for precision in ("highest", "medium") if device.type == "cpu" else ("highest",):
            torch.set_num_threads(threads)
            torch.set_float32_matmul_precision(precision)
            best = max(best, 1e3 * flops / median_ms(lambda: a @ b, 20))
    torch.set_num_threads(before[0])
    torch.set_float32_matmul_precision(before[1])
    return best


def weight_bandwidth(total_bytes: int, device: torch.device) -> float:
    """Bytes/s of products with one vector, over a set of matrices as large as a plan's weights."""
    count = max(1, total_bytes // (4 * 512 * 512))
    matrices = list(torch.randn(count, 512, 512, device=device))
    vector, best = torch.randn(512, device=device), 0.0

    def read_all() -> None:
        for matrix in matrices:
            torch.mv(matrix, vector)

    before = torch.get_num_threads()
    for threads in thread_counts():
        torch.set_num_threads(threads)
        best = max(best, 1e3 * len(matrices) * 4 * 512 * 512 / median_ms(read_all, 40))
    torch.set_num_threads(before)
    return best


def plan_weight_bytes(model: WorldModel) -> int:
    """Weights that one evaluation of a plan's return touches."""
    networks = (model._dynamics, model._reward, model._pi, model._Q1, model._Q2)
    return sum(p.nbytes for network in networks for p in network.parameters())


def iteration_bytes(model: WorldModel, horizon: int) -> int:
    """Bytes of weights that one iteration must read: each once forward and once back, and the
    dynamics at every step of the plan."""
    dynamics = sum(p.nbytes for p in model._dynamics.parameters())
    return 2 * (plan_weight_bytes(model) + (horizon - 1) * dynamics)


def count_flops(function: Callable[[], Any]) -> int:
    """Of a call's products, its backward passes included."""
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()
