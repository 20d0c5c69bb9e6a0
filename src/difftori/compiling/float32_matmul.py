"""How float32 products are computed: on a GPU in TF32 if asked for, on a CPU by oneDNN if exact."""

import functools
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

FLOAT32_ACCURACY = 1e-5
"""relative; float32 kernels err by 1e-7 to 1e-6 here, bf16 ones by 1e-3"""

LARGE_PRODUCT = 2**14
"""rows times columns from which oneDNN's float32 products beat MKL's; on AVX-512"""


def set_tf32(enabled: bool) -> None:
    """Let a GPU's float32 products and convolutions round to TF32's three digits, or not.

    torch itself rounds those of convolutions unless told otherwise.
    """
    torch.set_float32_matmul_precision("high" if enabled else "highest")
    torch.backends.cudnn.allow_tf32 = enabled


def fast_large_products(
    rows: int, columns: int, device: torch.device
) -> AbstractContextManager[None]:
    """Let large float32 products, ``[rows, columns]``, on a CPU use oneDNN's kernels if exact.

    torch's precision ``medium`` hands float32 products to oneDNN. With AVX-512 these are float32
    kernels, up to twice as fast as the default ones; on processors with AMX they are bf16 ones,
    which a small product tells, so that the choice is the same on every run of a machine.
    """
    large = device.type == "cpu" and rows * columns >= LARGE_PRODUCT
    return _medium_precision() if large and medium_is_accurate() else nullcontext()


@functools.cache
def medium_is_accurate() -> bool:
    """Whether ``medium`` products have float32 accuracy on this machine."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(256, 256, generator=generator) for _ in range(2))
    with _medium_precision():
        product = a @ b
    exact = a.double() @ b.double()
    return bool((product - exact).norm() < FLOAT32_ACCURACY * exact.norm())


@contextmanager
def _medium_precision() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
