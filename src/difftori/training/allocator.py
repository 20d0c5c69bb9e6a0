"""The C library's memory, kept between updates."""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""glibc's names, malloc.h"""
LARGEST_KEPT = (1024**3, 32 * 1024**2)
"""bytes of one tensor; older versions of glibc take the smaller one only"""


def keep_freed_memory() -> bool:
    """Have freed memory wait for the next update; False where the C library has no such setting.

    Otherwise an update's activations go back to the system when it ends, and the next one takes
    tens of thousands of page faults, a tenth of its time, to get them anew.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    kept = any(mallopt(M_MMAP_THRESHOLD, size) for size in LARGEST_KEPT)
    return bool(kept and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
