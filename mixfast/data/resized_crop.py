"""Regions of uint8 images, cut out and resized to one size: random-resized crop of a batch, on its device.

Resizing is bilinear, with a triangle filter as wide as the step between two results where it makes smaller
(torchvision's antialias=True), of the region alone: no pixel outside it counts. Columns first, then rows, 8 bits between
them, as Pillow does it. Both are matrix products. Their weights are whole numbers of 1 / 2^16, so that every sum is one
of whole numbers below 2^24, which float32 holds exactly: the result does not depend on the order of summation, the device
or which other regions are cut with it (unless a program of one's own lets CUDA multiply in TF32).

Legend of the dimension suffixes: N regions, c channels, H x W pixels of an image, h x w of a result; along one side L
pixels of the image and l of the result; X whatever else is in a row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mixfast.data.grouped import check_pixels
from mixfast.data.regions import span

ONE = 2**16
# Entries of the images that are worked on at a time: four times as many bytes, and that a few times over.
_ENTRIES = 2**26


def resized_crop(images: Tensor, index: Tensor, regions: Tensor, size: tuple[int, int]) -> Tensor:
    """Cuts regions out of images and resizes each to `size`.

    images: uint8 [U, c, H, W], read without a copy from channels-last memory
    index: int64 [N] into images, of each region
    regions: int64 [N, 4] in the order of `regions.Region`
    size: (h, w)
    Returns uint8 [N, c, h, w] in channels-last memory. The host never waits for the device.

    Raises TypeError for an argument of the wrong type or dtype, ValueError for a wrong shape.
    """
    check_pixels(images, "resized_crop")
    for name, value, shape in (("index", index, (len(index),)), ("regions", regions, (len(index), 4))):
        if value.dtype != torch.int64:
            raise TypeError(f"{name} must be int64, got {value.dtype}")
        if value.shape != shape:
            raise ValueError(f"{name} must have shape {list(shape)}, got {list(value.shape)}")
    at_once = max(1, _ENTRIES // images[0].numel())
    images_UHWc = images.permute(0, 2, 3, 1)
    parts = [
        _cut(images_UHWc.index_select(0, some), their_regions, size)
        for some, their_regions in zip(index.split(at_once), regions.split(at_once), strict=True)
    ]
    return torch.cat(parts).permute(0, 3, 1, 2)


def triangle_weights(start_N: Tensor, length_N: Tensor, side: int, out: int, dtype: torch.dtype) -> Tensor:
    """What each pixel of a side counts in each result: [N, l, L], every row sums to 1.

    start_N, length_N: the span that is resized to `out` pixels. All but the last division is of whole numbers: distances
    are counted in 1 / (2 * out) of a pixel.
    """
    start, length = (value.to(dtype)[:, None, None] for value in (start_N, length_N))
    pixel_L = torch.arange(side, dtype=dtype, device=start.device) - start  # [N, 1, L], from the region's first
    result_l = torch.arange(out, dtype=dtype, device=start.device)[:, None]
    distance = ((2 * pixel_L + 1) * out - (2 * result_l + 1) * length).abs_()
    weights = (2 * length.clamp(min=out) - distance).clamp_(min=0)
    weights *= (pixel_L >= 0) & (pixel_L < length)
    return weights.div_(weights.sum(-1, keepdim=True))


def _cut(images_NHWc: Tensor, regions_N4: Tensor, size: tuple[int, int]) -> Tensor:
    """uint8 [N, h, w, c]."""
    _, height, width, channels = images_NHWc.shape
    top, left, rows, columns = regions_N4.unbind(1)
    by_column = images_NHWc.transpose(1, 2).flatten(2)  # [N, W, H * c]
    by_column = _resampled(by_column, span(columns, left, width), size[1])
    by_row = by_column.unflatten(2, (height, channels)).transpose(1, 2).flatten(2)  # [N, H, w * c]
    return _resampled(by_row, span(rows, top, height), size[0]).unflatten(2, (size[1], channels))


def _resampled(pixels_NLX: Tensor, spans: tuple[Tensor, Tensor], out: int) -> Tensor:
    """One side of every image: uint8 [N, L, X] to uint8 [N, l, X]."""
    weights = triangle_weights(*spans, pixels_NLX.shape[1], out, torch.float32).mul_(ONE).round_()
    sums = torch.bmm(weights, pixels_NLX.to(torch.float32))
    return sums.add_(ONE // 2).div_(ONE).to(torch.uint8)
