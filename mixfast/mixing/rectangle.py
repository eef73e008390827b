"""CutMix rectangles: a square of the wanted area around a random centre, clipped to the grid."""

from __future__ import annotations

import torch
from torch import Tensor

from mixfast.mixing._arguments import check_generator, check_kappa, checked_grid


def draw_box(kappa: Tensor, grid: tuple[int, int], *, generator: torch.Generator | None) -> Tensor:
    """A box of half side ``int(R * sqrt(kappa)) // 2`` on each axis of length R around a uniform cell, clipped.

    Source: METHODS 7, thesis A.5.1. Whole cells and clipping make the area smaller than ``kappa`` asks for, on average
    too: use the realised ratios, ``Mixing.ratios()``. Draws the rows of all centres, then their columns.

    Args:
        kappa: wanted areas in 0..1, floating point ``[B]``.
        grid: ``(H, W)``.
        generator: source of all randomness, on kappa's device; None is torch's global one.

    Returns:
        int32 ``[B, 4]``: top, left, bottom, right; half open, within the grid, possibly empty.

    Raises:
        TypeError, ValueError: ``kappa``, ``grid`` or ``generator`` is not as above.
    """
    check_kappa(kappa, "B")
    grid = checked_grid(grid)
    check_generator(generator, kappa.device)
    side = kappa.float().sqrt()
    starts, ends = [], []
    for length in grid:
        centre = torch.randint(length, kappa.shape, generator=generator, device=kappa.device)
        half = (length * side).long() // 2
        starts.append((centre - half).clamp(min=0))
        ends.append((centre + half).clamp(max=length))
    return torch.stack(starts + ends, dim=1).int()
