"""The machine: cores, compiler, GPU, and how fast bf16 is."""

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from difftori.doctor.report import Finding

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_PROGRAM = "#include <cmath>\n#include <omp.h>\nint f() { return omp_get_max_threads(); }\n"
BF16_WORTH_IT = 1.2
"""times as fast as float32, from which bf16 is worth its rounding"""


def threads(wanted: int | None) -> Finding:
    """``wanted`` is the run's ``threads``."""
    import torch

    cores = usable_cores()
    used = torch.get_num_threads() if wanted is None else wanted
    load = os.getloadavg()[0]
    text = f"{cores:g} cores, threads={used}, load {load:.1f}"
    if used > cores:
        return Finding("note", f"{text}: threads wait for each other", f"threads={int(cores) or 1}")
    if load > cores:
        return Finding("note", f"{text}: others compute here", "wait, or count on a slower run")
    return Finding("ok", text)


def usable_cores() -> float:
    """Cores that this process may use: fewer than the machine has in a container or a job."""
    try:
        cores: float = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        cores = os.cpu_count() or 1
    try:
        quota, period = CPU_QUOTA.read_text().split()
        return min(cores, int(quota) / int(period))
    except (OSError, ValueError):  # no quota
        return cores


def compiler(*, wanted: bool) -> Finding:
    """One for C++ with OpenMP, which torch.compile needs; ``wanted`` is the run's ``compile``."""
    for name in filter(None, (os.environ.get("CXX"), "g++", "clang++")):
        path = shutil.which(name)
        if path is not None and _compiles(path):
            return Finding("ok", f"{name} compiles C++ with OpenMP")
    outcome = "compile=true will be ignored" if wanted else "only compile=true would use it"
    return Finding("note", f"no C++ compiler with OpenMP; {outcome}", "install g++")


def _compiles(path: str) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "f.cpp"
        source.write_text(_PROGRAM)
        command = [path, "-fopenmp", "-shared", "-fPIC", str(source), "-o", f"{folder}/f.so"]
        try:
            return subprocess.run(command, capture_output=True, timeout=60).returncode == 0
        except (OSError, subprocess.TimeoutExpired):
            return False


def cuda() -> Finding:
    import torch

    if torch.cuda.is_available():
        properties = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        names = ", ".join(f"{p.name} ({p.total_memory / 2**30:.0f} GiB)" for p in properties)
        return Finding("ok", f"{names}; CUDA {torch.version.cuda}")
    if shutil.which("nvidia-smi") is None:
        return Finding("ok", "no GPU; device=auto computes on the CPU")
    if torch.version.cuda is None:
        text = "a GPU's driver is here, and this torch is a build for the CPU"
        return Finding("note", text, "install torch's CUDA build")
    text = f"a GPU's driver is here, and torch (CUDA {torch.version.cuda}) cannot use it"
    return Finding("note", text, "see what nvidia-smi says")


def bf16(precision: str, rows: int, units: int, device: Any) -> Finding:
    """Times a hidden layer's product, ``[rows, units]`` by ``[units, units]``."""
    import torch

    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        speed = 0.0
    else:
        speed = _seconds(torch.float32, rows, units, device) / _seconds(
            torch.bfloat16, rows, units, device
        )
    text = f"{speed:.1f} times as fast as float32" if speed else "not supported by this GPU"
    if precision == "bf16" and speed < BF16_WORTH_IT:
        return Finding("note", text, "precision=fp32")
    if precision == "fp32" and speed >= BF16_WORTH_IT:
        return Finding("ok", f"{text}; precision=bf16 would use it")
    return Finding("ok", f"{text}; precision={precision}")


def _seconds(dtype: Any, rows: int, units: int, device: Any) -> float:
    """Of one product; the fastest of a few."""
    import torch

    left = torch.randn(rows, units, device=device).to(dtype)
    right = torch.randn(units, units, device=device).to(dtype)
    best = float("inf")
    deadline = time.perf_counter() + 0.5
    while time.perf_counter() < deadline:
        began = time.perf_counter()
        product = left @ right
        float(product[0, 0])  # waits for a GPU
        best = min(best, time.perf_counter() - began)
    return best
