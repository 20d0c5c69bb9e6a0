"""What this process may use of the machine."""

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

CONTAINER = Path("/sys/fs/cgroup")
"""what a container may use, and uses"""


def usable_cores() -> float:
    """Cores that this process may use: fewer than the machine has in a container or a job."""
    cores: float = len(os.sched_getaffinity(0))
    try:
        quota, period = (CONTAINER / "cpu.max").read_text().split()
        return min(cores, int(quota) / int(period))
    except (OSError, ValueError):  # no quota
        return cores


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    found = torch.cuda.device_count()
    return named.split(",")[:found] if named else [str(index) for index in range(found)]


def available_memory(device: "torch.device") -> int | None:
    """Bytes that can be had there without swapping; None where the system does not say."""
    if device.type == "cuda":
        import torch

        return torch.cuda.mem_get_info(device)[0]
    try:
        text = Path("/proc/meminfo").read_text()
    except OSError:
        return None
    found = re.search(r"MemAvailable: *(\d+) kB", text)
    limits = [int(found[1]) * 1024] if found else []
    with suppress(OSError, ValueError):  # no limit
        limit = int((CONTAINER / "memory.max").read_text())
        used = int((CONTAINER / "memory.current").read_text())
        cached = re.search(r"(?m)^inactive_file (\d+)$", (CONTAINER / "memory.stat").read_text())
        limits.append(max(0, limit - used + (int(cached[1]) if cached else 0)))
    return min(limits, default=None)
