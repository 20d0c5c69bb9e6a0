"""The published way against this project's, on full-size networks, in one process, interleaved.

    python benchmarks/speed.py
    python benchmarks/speed.py --json speed.json --rows plan_forward plan_back
    python benchmarks/speed.py --profiles results/speed --rows update_bf16

The reference is in ``published.py``. Each side runs with the number of threads that suits it best.
Both do the same number of iterations (no early stop), and the results of both are compared. The
floor is what this machine needs at least to read the weights or multiply the matrices, by rates
that are measured at the start (``machine.py``).
"""

import argparse
import json
import logging
import math
import re
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch._inductor.config
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from bench import WAYS, Bench, Case
from cases import CPU_ONLY, GPU_ONLY, ROWS
from machine import thread_counts, timed_ms

from difftori.compiling.float32_matmul import set_tf32
from difftori.devices import make_current, resolve_device
from difftori.training.allocator import keep_freed_memory


@dataclass(frozen=True)
class Measured:
    reference_ms: float
    ours_ms: float
    ratio: float
    floor_ms: float


def measure(case: Case) -> Measured:
    """Medians, and the median of the ratios of neighbouring calls."""
    sides = [(case.reference, best_threads(case.reference)), (case.ours, best_threads(case.ours))]
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(case.repeats):
        for (function, threads), taken in zip(sides, times, strict=True):
            torch.set_num_threads(threads)
            taken.append(timed_ms(function))
    ratios = [reference / ours for reference, ours in zip(*times, strict=True)]
    medians = [case.scale * statistics.median(taken) for taken in times]
    return Measured(medians[0], medians[1], statistics.median(ratios), case.floor_ms)


def best_threads(function: Callable[[], Any]) -> int:
    """The number of threads with the fastest of three calls each, taken in turns."""
    on_gpu = torch.cuda.is_initialized()
    counts = thread_counts()[:1] if on_gpu else thread_counts()
    taken: dict[int, list[float]] = {threads: [] for threads in counts}
    for _ in range(4):
        for threads, times in taken.items():
            torch.set_num_threads(threads)
            times.append(timed_ms(function))
    return min(taken, key=lambda threads: min(taken[threads][1:]))


def profile(case: Case) -> str:
    """Where the time of a call of ours goes, the largest shares first."""
    torch.set_num_threads(best_threads(case.ours))
    calls = 3
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as recorded:
        for _ in range(calls):
            case.ours()
    total_us: Counter[str] = Counter()
    for event in recorded.key_averages():
        total_us[_kind(event.key)] += event.self_cpu_time_total / calls
    whole = sum(total_us.values())
    lines = [
        f"{case.name}: {case.what}; {whole / 1e3:,.1f} ms on {torch.get_num_threads()} threads",
        *(f"{100 * us / whole:5.1f} %  {kind}" for kind, us in total_us.most_common(20)),
    ]
    return "\n".join(lines) + "\n"


def _kind(name: str) -> str:
    """What an event of the profiler is about."""
    if re.search(r"(add)?b?mm|convolution|conv2d|linear", name):
        return "products of matrices, convolutions"
    if name.startswith("## Call CompiledFxGraph"):
        return "compiled graphs, apart from their kernels"
    kernel = re.fullmatch(r"graph_\d+_cpp_fused_(.*?)_?\d*", name)
    return f"fused: {kernel[1]}" if kernel else name


def table(rows: Iterable[tuple[Case, Measured]]) -> Table:
    shown = Table("name", "what", box=None, header_style="bold")
    for column in ("reference ms", "ours ms", "ratio", "reach", "floor ms"):
        shown.add_column(column, justify="right")
    shown.add_column("both agree")
    for case, row in rows:
        times = (f"{time:,.1f}" for time in (row.reference_ms, row.ours_ms))
        reach, floor = f"{case.reach:g}", f"{row.floor_ms:,.1f}"
        shown.add_row(
            case.name, case.what, *times, f"{row.ratio:.2f}", reach, floor, case.agreement
        )
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", nargs="+", choices=ROWS, metavar="NAME")
    parser.add_argument("--json", type=Path, help="write the numbers to this file too")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    text = "what ours is: compiled, and recorded as CUDA graphs"
    parser.add_argument("--way", choices=WAYS, help=f"{text} (on a GPU: both)")
    parser.add_argument("--seconds", type=float, default=math.inf, help="begin no row after that")
    parser.add_argument(
        "--profiles",
        type=Path,
        metavar="FOLDER",
        help="write where our time goes to NAME.txt there",
    )
    arguments = parser.parse_args()
    arguments.way = arguments.way or ("compiled" if arguments.device == "cpu" else "both")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    console = Console(width=None if sys.stdout.isatty() else 160)
    keep_freed_memory()
    set_tf32(False)
    device = resolve_device(arguments.device)
    make_current(device)
    elsewhere = CPU_ONLY if device.type == "cuda" else GPU_ONLY
    begin = time.monotonic()
    if arguments.profiles:
        arguments.profiles.mkdir(parents=True, exist_ok=True)
        torch._inductor.config.cpp.enable_kernel_profile = True
    console.print("measuring this machine's rates …")
    bench = Bench(arguments.way, device)
    console.print(bench.machine_line)
    done: list[tuple[Case, Measured]] = []
    for name in arguments.rows or [name for name in ROWS if name not in elsewhere]:
        if time.monotonic() - begin > arguments.seconds:
            console.print(f"{name}: not begun, the time is over")
            continue
        console.print(f"{name} …")
        case = ROWS[name](bench)
        done.append((case, measure(case)))
        console.print(
            f"{name}: {done[-1][1].reference_ms:,.1f} / {done[-1][1].ours_ms:,.1f} ms, "
            f"ratio {done[-1][1].ratio:.2f}"
        )
        if arguments.profiles:
            (arguments.profiles / f"profile-{name}.txt").write_text(profile(case))
        if arguments.json:
            numbers = {case.name: vars(row) for case, row in done}
            arguments.json.write_text(json.dumps(numbers, indent=2) + "\n")
    console.print(table(done))


if __name__ == "__main__":
    main()
