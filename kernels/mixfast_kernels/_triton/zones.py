"""The zone of a mix, as the Triton kernels read it: how much of a position lies inside.

    w_i(b, p) = outside[b, i] + coverage(b, p) * (inside[b, i] - outside[b, i])

A launcher turns a mix's ``box`` and ``bitmap`` into one tensor and a kind with ``zone_of``, a kernel asks ``coverage``.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

NONE, BOX, BITMAP = "none", "box", "bitmap"


def zone_of(box: Tensor | None, bitmap: Tensor | None) -> tuple[Tensor | None, str]:
    """The tensor that ``coverage`` reads and its KIND, a ``tl.constexpr`` string.

    ``"none"``: None; ``"box"``: int32 ``[B, 4]``; ``"bitmap"``: ``[B, H, W]`` of uint8, float32 or float64. Contiguous.
    """
    if box is not None:
        return box.contiguous(), BOX
    if bitmap is not None:
        whole = bitmap.contiguous()
        return whole.view(torch.uint8) if whole.dtype == torch.bool else whole, BITMAP
    return None, NONE


@triton.jit
def coverage(zone_ptr, sample, position, in_range, positions, width, KIND: tl.constexpr):
    """The share of each position that lies inside the zone: float32, or the dtype of a floating-point bitmap.

    ``sample`` and ``position`` (row * width + column) broadcast to the result's shape; so does ``in_range``, which guards
    the bitmap. ``sample`` itself must be in range, as the box is read without a mask. 32-bit values will do: offsets are
    64-bit. Where not ``in_range`` a bitmap gives 0 and a box whatever its rectangle says.
    """
    if KIND == "box":
        box_ptr = zone_ptr + sample.to(tl.int64) * 4
        top, left = tl.load(box_ptr), tl.load(box_ptr + 1)
        bottom, right = tl.load(box_ptr + 2), tl.load(box_ptr + 3)
        row, column = position // width, position % width
        inside = (row >= top) & (row < bottom) & (column >= left) & (column < right)
        share = inside.to(tl.float32)
    elif KIND == "bitmap":
        value = tl.load(zone_ptr + sample.to(tl.int64) * positions + position, mask=in_range, other=0)
        share = value.to(tl.float32) if value.dtype == tl.uint8 else value
    else:
        share = (sample * 0 + position * 0).to(tl.float32)
    return share
