"""Per-channel mean and standard deviation of uint8 images, in units of 0..1."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# Bounds the temporary memory of the histogram: one channel of this many bytes of pixels at a time.
_PIXELS_AT_ONCE = 1 << 24


@dataclass(frozen=True)
class Statistics:
    """What a data set's inputs are normalised by; one number per channel, so it also says how many there are."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def channels(self) -> int:
        return len(self.mean)


def pixel_statistics(images_NHWC: Tensor) -> Statistics:
    """Exact mean and population standard deviation of each channel of `images_NHWC` (uint8 [N, H, W, c]).

    Counts how often each of the 256 values occurs, so the sums are integers and no precision is lost however many
    pixels there are. A channel that never varies gets a deviation of 1: dividing by it must not give infinities.
    """
    return statistics_of_counts(torch.stack([_histogram(images_NHWC[..., c]) for c in range(images_NHWC.shape[-1])]))


def statistics_of_counts(counts_c256: Tensor) -> Statistics:
    """The same from how often each channel has each of the 256 values: `counts_c256` (int64 [c, 256])."""
    means, deviations = [], []
    values = torch.arange(256, dtype=torch.float64) / 255
    for counts in counts_c256:
        mean = float((values * counts).sum() / counts.sum())
        variance = float(((values - mean).square() * counts).sum() / counts.sum())
        means.append(mean)
        deviations.append(math.sqrt(variance) or 1.0)
    return Statistics(tuple(means), tuple(deviations))


def _histogram(pixels_NHW: Tensor) -> Tensor:
    """How often each value 0..255 occurs: int64 [256]."""
    images_at_once = max(1, _PIXELS_AT_ONCE // max(1, pixels_NHW[0].numel()))
    counts = torch.zeros(256, dtype=torch.int64)
    for chunk in pixels_NHW.split(images_at_once):
        counts += torch.bincount(chunk.reshape(-1), minlength=256)
    return counts
