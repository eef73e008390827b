"""augment: a uint8 batch gathered, cropped, flipped, blended, normalised and laid out in one pass.

Every source s of a sample is cropped out of its image (padded with black by ``pad`` pixels a side), then flipped;
the S sources are blended with the weights of a two-zone mix on the pixel grid (pixel CutMix, MixUp, or both at
once, thesis 2.1 and A.1.3.1), then normalised.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mixfast_kernels._check import check_statistics, check_tensor
from mixfast_kernels._register import register_op
from mixfast_kernels.mixing import Mixing, check_mixing

OUTPUT_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.uint8)


def _gathered(
    pixels: Tensor, size: tuple[int, int], index: Tensor, crop: Tensor, flip: Tensor | None, pad: int, out: list[int]
) -> Tensor:
    """One source of every sample: ``[U * H * W, c]`` uint8 to ``[B, h, w, c]`` uint8, black outside the image."""
    height, width = size
    rows = crop[:, :1] - pad + torch.arange(out[0], device=pixels.device)
    columns = torch.arange(out[1], device=pixels.device)
    if flip is not None:
        columns = torch.where(flip[:, None], out[1] - 1 - columns, columns)
    columns = crop[:, 1:] - pad + columns
    flat = (index[:, None] * height + rows.clamp(0, height - 1))[:, :, None] * width
    flat = flat + columns.clamp(0, width - 1)[:, None, :]
    picked = pixels.index_select(0, flat.flatten()).view(*flat.shape, pixels.shape[1])
    if pad > 0 or out[0] > height or out[1] > width:
        row_seen = (rows >= 0) & (rows < height)
        column_seen = (columns >= 0) & (columns < width)
        picked = picked * (row_seen[:, :, None] & column_seen[:, None, :])[..., None]
    return picked


def augment_reference(
    images: Tensor,
    index: Tensor,
    crop: Tensor,
    flip: Tensor | None,
    inside: Tensor | None,
    outside: Tensor | None,
    box: Tensor | None,
    bitmap: Tensor | None,
    pad: int,
    mean: list[float] | None,
    std: list[float] | None,
    dtype: torch.dtype,
    out_size: list[int],
) -> Tensor:
    """Plain PyTorch: ``[U, c, H, W]`` uint8 to ``[B, c, h, w]``, channels-last, in ``dtype``."""
    size = (images.shape[2], images.shape[3])
    pixels = images.permute(0, 2, 3, 1).flatten(0, 2)
    sources = [
        _gathered(pixels, size, index[:, s], crop[:, s], None if flip is None else flip[:, s], pad, out_size)
        for s in range(index.shape[1])
    ]
    full = torch.float64 if dtype == torch.float64 else torch.float32
    if inside is None or outside is None:
        values = sources[0] if dtype == torch.uint8 else sources[0].to(full)
    else:
        weights = Mixing(inside, outside, (out_size[0], out_size[1]), box, bitmap).weights().to(full)[..., None]
        values = weights[:, 0] * sources[0].to(full)
        for s in range(1, len(sources)):
            values = torch.addcmul(values, weights[:, s], sources[s].to(full))
    if dtype == torch.uint8:
        result = values if values.dtype == torch.uint8 else values.round().clamp(0, 255).to(torch.uint8)
        return result.permute(0, 3, 1, 2)
    if mean is not None and std is not None:
        deviation = values.new_tensor(std) * 255
        values = values.div_(deviation).sub_(values.new_tensor(mean) * 255 / deviation)
    else:
        values = values.div_(255)
    return values.to(dtype).permute(0, 3, 1, 2)


def _fake(
    images: Tensor,
    index: Tensor,
    crop: Tensor,
    flip: Tensor | None,
    inside: Tensor | None,
    outside: Tensor | None,
    box: Tensor | None,
    bitmap: Tensor | None,
    pad: int,
    mean: list[float] | None,
    std: list[float] | None,
    dtype: torch.dtype,
    out_size: list[int],
) -> Tensor:
    shape = (index.shape[0], out_size[0], out_size[1], images.shape[1])
    return images.new_empty(shape, dtype=dtype).permute(0, 3, 1, 2)


_augment = register_op(
    "augment(Tensor images, Tensor index, Tensor crop, Tensor? flip, Tensor? inside, Tensor? outside, Tensor? box,"
    " Tensor? bitmap, SymInt pad, float[]? mean, float[]? std, ScalarType dtype, SymInt[] out_size) -> Tensor",
    augment_reference,
    _fake,
)


def augment(
    images: Tensor,
    *,
    index: Tensor | None = None,
    mixing: Mixing | None = None,
    crop: Tensor | None = None,
    flip: Tensor | None = None,
    pad: int = 0,
    mean: Sequence[float] | Tensor | None = None,
    std: Sequence[float] | Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    out_size: tuple[int, int] | None = None,
) -> Tensor:
    """Gathers, crops, flips, blends and normalises a uint8 batch (METHODS 4 and 7: pad, crop, flip; pixel CutMix, MixUp).

    Args:
        images: uint8 ``[U, c, H, W]``; channels-last memory is read without a copy.
        index: int64 ``[B]`` or ``[B, S]`` into the images (values not checked on the device); by default each image once.
        mixing: a mix of the S sources on the output's pixel grid; without it S must be 1.
        crop: int64 ``[B, 2]`` or ``[B, S, 2]``, (top, left) of the window in the padded image; by default the centre.
        flip: bool ``[B]`` or ``[B, S]``, mirror the window left to right.
        pad: black pixels added on each side before cropping.
        mean, std: c numbers each, in units of 0..1: the result is ``(x / 255 - mean) / std``; without them ``x / 255``.
        dtype: of the result; uint8 skips the scaling and takes no mean and std.
        out_size: (height, width) of the window; by default the images' own.

    Returns:
        ``[B, c, h, w]`` in channels-last memory. There is no gradient: the pixels are integers.

    Raises:
        TypeError, ValueError: an argument has the wrong type, dtype, shape, device or range.
    """
    check_tensor(images, "images", ("U", "c", "H", "W"), (torch.uint8,))
    unique, channels, height, width = images.shape
    if min(channels, height, width) < 1:
        raise ValueError(f"images must have at least one channel, row and column, got shape {tuple(images.shape)}")
    out_size = (height, width) if out_size is None else (int(out_size[0]), int(out_size[1]))
    if pad < 0 or min(out_size) < 1 or out_size[0] > height + 2 * pad or out_size[1] > width + 2 * pad:
        raise ValueError(f"out_size {out_size} does not fit into images of {height} x {width} padded by {pad}")
    if dtype not in OUTPUT_DTYPES:
        raise TypeError(f"dtype must be one of {OUTPUT_DTYPES}, got {dtype}")
    mean, std = check_statistics(mean, std, channels)
    if dtype == torch.uint8 and mean is not None:
        raise ValueError("mean and std need a floating-point dtype, got dtype=torch.uint8")
    if index is None:
        index = torch.arange(unique, device=images.device)
    index = _per_source(index, "index", (), torch.int64, images.device)
    batch, sources = index.shape
    if crop is None:
        centre = [(height + 2 * pad - out_size[0]) // 2, (width + 2 * pad - out_size[1]) // 2]
        crop = torch.tensor(centre, device=images.device).expand(batch, sources, 2)
    crop = _per_source(crop, "crop", (2,), torch.int64, images.device, (batch, sources))
    if flip is not None:
        flip = _per_source(flip, "flip", (), torch.bool, images.device, (batch, sources))
    if mixing is None:
        if sources != 1:
            raise ValueError(f"index names {sources} sources a sample: give the mixing that blends them")
        return _augment(images, index, crop, flip, None, None, None, None, pad, mean, std, dtype, out_size)
    check_mixing(mixing, "mixing", batch, out_size, images.device)
    if mixing.num_inputs != sources:
        raise ValueError(f"mixing must have {sources} inputs, one a source of index; got {mixing.num_inputs}")
    if mixing.inside.requires_grad or mixing.outside.requires_grad:
        raise ValueError("augment has no gradient: mixing must not require one; detach its weights")
    zone = (mixing.inside, mixing.outside, mixing.box, mixing.bitmap)
    return _augment(images, index, crop, flip, *zone, pad, mean, std, dtype, out_size)


def _per_source(
    value: Tensor,
    name: str,
    tail: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
    heads: tuple[int, int] | None = None,
) -> Tensor:
    """Accepts ``[B, *tail]`` for one source and ``[B, S, *tail]``; returns the latter."""
    if isinstance(value, Tensor) and value.dim() == 1 + len(tail):
        value = value.unsqueeze(1)
    check_tensor(value, name, (*(heads or ("B", "S")), *tail), (dtype,), device)
    return value
