"""Random shifts of pixel observations (DrQ-v2, arXiv 2107.09645, at integer offsets)."""

import torch
from jaxtyping import Int, Shaped
from torch import Tensor
from torch.nn import functional

PAD = 4
"""largest shift, in pixels"""


def random_offsets(count: int, generator: torch.Generator) -> Int[Tensor, "B 2"]:
    """Uniform (dy, dx) in 0 … 2·PAD, one for each image; PAD is no shift."""
    return torch.randint(0, 2 * PAD + 1, (count, 2), generator=generator, device=generator.device)


def shift(
    images: Shaped[Tensor, "B C S S"], offsets: Int[Tensor, "B 2"]
) -> Shaped[Tensor, "B C S S"]:
    """Crop each image out of its own replicate padding at (dy, dx); any dtype, exact."""
    batch, channels, size, _ = images.shape
    reach = torch.arange(size, device=images.device)
    # Replicate padding is a clamped index: no padded copy is made.
    rows = (reach + offsets[:, :1] - PAD).clamp(0, size - 1)
    columns = (reach + offsets[:, 1:] - PAD).clamp(0, size - 1)
    source = (rows[:, :, None] * size + columns[:, None, :]).view(batch, 1, size * size)
    flat = images.reshape(batch, channels, size * size)
    return flat.gather(2, source.expand(-1, channels, -1)).view(images.shape)


def shift_kornia(
    images: Shaped[Tensor, "B C S S"], offsets: Int[Tensor, "B 2"]
) -> Shaped[Tensor, "B C S S"]:
    """The same crops by kornia's ``crop_by_indices``, which the augmentations there build on."""
    from kornia.geometry.transform import crop_by_indices

    size = images.shape[-1]
    padded = functional.pad(images.float(), (PAD, PAD, PAD, PAD), mode="replicate")
    dy, dx = offsets[:, 0], offsets[:, 1]
    far_y, far_x = dy + size - 1, dx + size - 1
    corners = [(dx, dy), (far_x, dy), (far_x, far_y), (dx, far_y)]
    boxes = torch.stack([torch.stack(corner, dim=-1) for corner in corners], dim=1)
    return crop_by_indices(padded, boxes).to(images.dtype)


SHIFTS = {"shift": shift, "kornia": shift_kornia}
