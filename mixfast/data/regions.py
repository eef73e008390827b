"""The regions of random-resized crop (Szegedy et al., "Going deeper with convolutions", CVPR 2015, section 6).

A region's share of the image's area is uniform between two bounds, its ratio of width to height log-uniform between 3/4
and 4/3, its place uniform. Sides that do not fit are drawn again, ten times, then the largest central region of an
allowed ratio is taken: torchvision's rules. All tries are drawn at once, so that the host never waits.

A region is four whole numbers, in units of 1 / UNIT, from which every source computes the same pixels by integers alone,
whatever the size of the image that it cuts from and wherever it computes.

Legend of the dimension suffixes: N regions, T tries.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

UNIT = 2**20
MIN_RATIO, MAX_RATIO = 3 / 4, 4 / 3
TRIES = 10


class Region(NamedTuple):
    """A part of an image, in units of 1 / UNIT: `height` and `width` are shares of the image's sides; `top` and `left` say
    how much of the room that these leave, from 0 to below 1, lies before the region."""

    top: int
    left: int
    height: int
    width: int


def draw_regions(count: int, area: tuple[float, float], size: tuple[int, int], *, generator: torch.Generator) -> Tensor:
    """Regions of images of one shape, int64 [N, 4] on the generator's device, each in the order of `Region`.

    count: N
    area: the least and the greatest share of the image's area, 0 < least <= greatest <= 1
    size: (H, W) of the images, of which only the ratio counts
    """
    shape = size[1] / size[0]
    device = generator.device
    area_TN, ratio_TN = torch.rand((2, TRIES, count), generator=generator, device=device)
    area_TN = area[0] + (area[1] - area[0]) * area_TN
    ratio_TN = (math.log(MIN_RATIO) + math.log(MAX_RATIO / MIN_RATIO) * ratio_TN).exp()
    sides_T2N = torch.stack([area_TN * shape / ratio_TN, area_TN * ratio_TN / shape], 1).sqrt()
    fits_TN = (sides_T2N <= 1).all(1)
    first_N = fits_TN.int().argmax(0)
    sides_2N = sides_T2N.gather(0, first_N.expand(1, 2, count))[0]
    place_2N = (torch.rand((2, count), generator=generator, device=device) * UNIT).long()
    drawn_4N = torch.cat([place_2N, (sides_2N * UNIT).round().long()])
    fits_N = fits_TN.any(0)
    chosen = [torch.where(fits_N, drawn_N, central) for drawn_N, central in zip(drawn_4N, _central(shape), strict=True)]
    return torch.stack(chosen, 1)


def span(share: Any, place: Any, side: Any) -> tuple[Any, Any]:
    """(first pixel, number of pixels) of a region along one side of an image of `side` pixels, at least one pixel.

    share, place: the region's height and top, or its width and left. Numbers, integer tensors or nodes of a DALI graph: for
    all of them the result is the same.
    """
    length = (share * side + UNIT // 2) // UNIT
    length = length + (length < 1)
    return place * (side - length + 1) // UNIT, length


def _central(shape: float) -> Region:
    """The largest region of an allowed ratio, in the middle of an image of width / height `shape`."""
    middle = UNIT // 2 - 1  # of an odd number of pixels the smaller half comes first
    height, width = min(1.0, shape / MIN_RATIO), min(1.0, MAX_RATIO / shape)
    return Region(middle, middle, round(height * UNIT), round(width * UNIT))
