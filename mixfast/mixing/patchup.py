"""PatchUp-2D: square blocks around random seeds, as DropBlock draws them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from mixfast.mixing._arguments import check_generator, check_kappa, checked_grid

BLOCK = 7
"""Side of a block in grid cells, as in the PatchUp paper."""


def draw_patchup_bitmap(kappa: Tensor, grid: tuple[int, int], *, generator: torch.Generator | None) -> Tensor:
    """Every cell is a seed with a small probability; the mask is all cells within half a block of a seed.

    Source: thesis A.5.1 (PatchUp, with one mask for all channels). The seed probability is DropBlock's
    ``kappa * HW / (block^2 * (H - block + 1) * (W - block + 1))``. It overlooks overlaps and borders, so the area is
    near ``kappa`` up to about a half and below it above: use the realised ratios, ``Mixing.ratios()``. On a grid with
    a side shorter than ``BLOCK``, blocks have the largest odd side that fits.

    Args:
        kappa: wanted areas in 0..1, floating point ``[B]``.
        grid: ``(H, W)``.
        generator: source of all randomness, on kappa's device; None is torch's global one.

    Returns:
        bool ``[B, H, W]``.

    Raises:
        TypeError, ValueError: ``kappa``, ``grid`` or ``generator`` is not as above.
    """
    check_kappa(kappa, "B")
    height, width = grid = checked_grid(grid)
    check_generator(generator, kappa.device)
    shortest = min(grid)
    block = min(BLOCK, shortest - 1 + shortest % 2)  # odd, so that a block has a middle cell
    seed_rate = height * width / (block**2 * (height - block + 1) * (width - block + 1))
    uniform = torch.rand((len(kappa), 1, height, width), generator=generator, device=kappa.device)
    seeds = uniform < seed_rate * kappa.float()[:, None, None, None]
    return max_pool2d(seeds.float(), block, stride=1, padding=block // 2).squeeze(1) > 0
