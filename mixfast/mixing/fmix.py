"""FMix masks: one large, contiguous, irregular region, the highest part of a smooth random landscape."""

from __future__ import annotations

import torch
from torch import Tensor

from mixfast.mixing._arguments import check_generator, check_kappa, checked_grid

DECAY_POWER = 3
"""Amplitudes fall with the frequency to this power, as in the FMix paper."""


def draw_fmix_bitmap(kappa: Tensor, grid: tuple[int, int], *, generator: torch.Generator | None) -> Tensor:
    """The ``round(kappa * H * W)`` highest cells of low-pass filtered Gaussian noise (thesis A.5.1).

    Args:
        kappa: wanted areas in 0..1, floating point ``[B]``.
        grid: ``(H, W)``.
        generator: source of all randomness, on kappa's device; None is torch's global one.

    Returns:
        bool ``[B, H, W]``; exactly that many cells are set.

    Raises:
        TypeError, ValueError: ``kappa``, ``grid`` or ``generator`` is not as above.
    """
    check_kappa(kappa, "B")
    height, width = grid = checked_grid(grid)
    check_generator(generator, kappa.device)
    if not len(kappa):  # MKL's FFT refuses an empty batch
        return torch.empty((0, height, width), dtype=torch.bool, device=kappa.device)
    noise = torch.randn((len(kappa), height, width), generator=generator, device=kappa.device)
    order = _low_pass(noise).flatten(1).argsort(dim=1, descending=True)
    count = (kappa.float() * (height * width)).round()
    chosen = torch.arange(height * width, device=kappa.device) < count[:, None]
    # Cells are set by rank, not by threshold, so that equal heights cannot change the count.
    return torch.zeros_like(chosen).scatter(1, order, chosen).view(-1, height, width)


def _low_pass(noise: Tensor) -> Tensor:
    """Divides each frequency's amplitude by ``max(frequency, 1 / longest side)^DECAY_POWER``, on ``[B, H, W]``.

    White noise is filtered instead of drawing its spectrum: a drawn half spectrum lacks the symmetry that a real field
    needs in its first column, and what an inverse FFT makes of that differs between devices.
    """
    height, width = noise.shape[1:]
    rows = torch.fft.fftfreq(height, device=noise.device)
    columns = torch.fft.rfftfreq(width, device=noise.device)
    frequency = torch.hypot(rows[:, None], columns[None, :]).clamp(min=1 / max(height, width))
    return torch.fft.irfft2(torch.fft.rfft2(noise) / frequency**DECAY_POWER, s=(height, width))
