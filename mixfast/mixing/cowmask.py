"""CowMask: spots like those of a Friesian cow, from blurred noise cut at a threshold."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mixfast.mixing._arguments import check_generator, check_kappa, checked_grid

SIGMA_RANGE = (4.0, 16.0)
"""Standard deviation of the blur in grid cells, drawn log-uniformly for each sample: the size of the spots."""
PROPORTION_RANGE = (0.2, 0.8)
"""Share of the grid inside, drawn uniformly for each sample."""


def draw_cowmask_bitmap(kappa: Tensor, grid: tuple[int, int], *, generator: torch.Generator | None) -> Tensor:
    """Cells where Gaussian-blurred Gaussian noise stays below its own p-quantile, were its values normal.

    Source: thesis A.5.1 (CowMix). A proportion p is drawn here as in the CowMix paper and takes the place of ``kappa``,
    of which only the batch size and the device are read; with one normal threshold
    ``mean + sqrt(2) * erfinv(2 p - 1) * std`` for all shapes of noise, areas scatter around p. Draws p, then the blur,
    then the noise.

    Args:
        kappa: floating point ``[B]``; its values have no influence.
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
    batch, device = len(kappa), kappa.device
    proportion = _draw_uniform(batch, *PROPORTION_RANGE, generator, device)
    log_low, log_high = map(math.log, SIGMA_RANGE)
    sigma = _draw_uniform(batch, log_low, log_high, generator, device).exp()
    noise = torch.randn((batch, height, width), generator=generator, device=device)
    field = _blur_matrix(sigma, height) @ noise @ _blur_matrix(sigma, width)
    field = field - field.mean((1, 2), keepdim=True)
    std = field.square().mean((1, 2), keepdim=True).sqrt()
    quantile = math.sqrt(2) * torch.erfinv(2 * proportion - 1)
    return field <= quantile[:, None, None] * std


def _draw_uniform(
    batch: int, low: float, high: float, generator: torch.Generator | None, device: torch.device
) -> Tensor:
    return low + (high - low) * torch.rand(batch, generator=generator, device=device)


def _blur_matrix(sigma: Tensor, length: int) -> Tensor:
    """Gaussian blur along one axis as a symmetric matrix for each sample: ``[B]`` to ``[B, length, length]``.

    A matrix lets every sample have its own width in one batched product, and needs no truncation. Beyond the grid the
    noise counts as zero. The factor that makes a kernel sum to 1 is left out: the threshold scales with the field.
    """
    position = torch.arange(length, device=sigma.device)
    distance = (position[:, None] - position[None, :]) / sigma[:, None, None]
    return torch.exp(-0.5 * distance.square())
