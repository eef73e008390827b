"""Horizontal and vertical concatenation: one straight border across the whole grid."""

from __future__ import annotations

import torch
from torch import Tensor

from mixfast.mixing._arguments import check_generator, check_kappa, checked_grid


def draw_horizontal_box(kappa: Tensor, grid: tuple[int, int], *, generator: torch.Generator | None) -> Tensor:
    """A vertical border: the zone is the left or the right end of the grid. See ``_draw_end``."""
    return _draw_end(kappa, grid, 1, generator)


def draw_vertical_box(kappa: Tensor, grid: tuple[int, int], *, generator: torch.Generator | None) -> Tensor:
    """A horizontal border: the zone is the upper or the lower end of the grid. See ``_draw_end``."""
    return _draw_end(kappa, grid, 0, generator)


def _draw_end(kappa: Tensor, grid: tuple[int, int], axis: int, generator: torch.Generator | None) -> Tensor:
    """One end of the grid along ``axis``, of share kappa up to whole cells (thesis A.5.1).

    A fair coin a sample chooses the end: the first ``int(kappa * R)`` cells of the axis, or those from
    ``int((1 - kappa) * R)`` on.

    Args:
        kappa: wanted areas in 0..1, floating point ``[B]``.
        grid: ``(H, W)``.
        axis: 0 to cut the height, 1 to cut the width.
        generator: source of all randomness, on kappa's device; None is torch's global one.

    Returns:
        int32 ``[B, 4]``: top, left, bottom, right; half open, within the grid, possibly empty.

    Raises:
        TypeError, ValueError: ``kappa``, ``grid`` or ``generator`` is not as above.
    """
    check_kappa(kappa, "B")
    grid = checked_grid(grid)
    check_generator(generator, kappa.device)
    length = grid[axis]
    kappa = kappa.float()
    at_far_end = torch.rand(kappa.shape, generator=generator, device=kappa.device) < 0.5
    near_share = torch.where(at_far_end, 1 - kappa, kappa)
    border = (near_share * length).int()
    start = torch.where(at_far_end, border, 0)
    end = torch.where(at_far_end, length, border)
    across = (torch.zeros_like(border), torch.full_like(border, grid[1 - axis]))
    spans = [across, across]
    spans[axis] = (start, end)
    (top, bottom), (left, right) = spans
    return torch.stack((top, left, bottom, right), dim=1)
