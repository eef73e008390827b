"""augment in Triton: every visible byte is read once where it lies, every element of the result is written once.

A program makes ``BLOCK`` consecutive elements of one sample's channels-last result, so its stores are 128 bits wide
wherever the sample's size allows. For each source it finds the byte under each element (crop, flip and padding are index
arithmetic) and loads it only where the source has a weight.

What lies outside is black and never read: a window beyond the padded image, and an image index outside 0..U-1, as
refusing either would wait for the device.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from mixfast_kernels._triton.aot import Case, meta, nbytes
from mixfast_kernels._triton.interpreter import repair
from mixfast_kernels._triton.pixels import of_channel
from mixfast_kernels._triton.precision import sums_of
from mixfast_kernels._triton.zones import NONE, coverage, zone_of

repair()

# Elements a program: 8 a thread of 4 warps are one 128-bit store in bfloat16, two in float32 and four in float64.
BLOCK = 1024
# Of bytes, a store of 128 bits holds 16.
BYTE_BLOCK = 2048
# Adding and subtracting this rounds a float32 in 0..255 to an integer, ties to even.
ROUNDING = tl.constexpr(1.5 * 2**23)


@triton.jit
def _source_pixels(
    images_ptr,
    index_ptr,
    crop_ptr,
    flip_ptr,
    slot,
    row,
    column,
    channel,
    wanted,
    unique,
    stride_u,
    stride_c,
    stride_h,
    stride_w,
    PAD: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    OUT_W: tl.constexpr,
):
    """The bytes of source ``slot`` (sample * S + s) under the elements of its window; black where not ``wanted``."""
    image = tl.load(index_ptr + slot)
    top, left = tl.load(crop_ptr + 2 * slot), tl.load(crop_ptr + 2 * slot + 1)
    if flip_ptr is not None:
        column = tl.where(tl.load(flip_ptr + slot) != 0, OUT_W - 1 - column, column)
    y, x = top - PAD + row, left - PAD + column
    seen = wanted & (image >= 0) & (image < unique) & (y >= 0) & (y < HEIGHT) & (x >= 0) & (x < WIDTH)
    offsets = image * stride_u + y * stride_h + x * stride_w + channel.to(tl.int64) * stride_c
    return tl.load(images_ptr + offsets, mask=seen, other=0)


@triton.jit(do_not_specialize=["unique"])
def _augment_kernel(
    images_ptr,
    index_ptr,
    crop_ptr,
    flip_ptr,
    inside_ptr,
    outside_ptr,
    zone_ptr,
    out_ptr,
    unique,
    stride_u,
    stride_c,
    stride_h,
    stride_w,
    SOURCES: tl.constexpr,
    KIND: tl.constexpr,
    PAD: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    OUT_H: tl.constexpr,
    OUT_W: tl.constexpr,
    CHANNELS: tl.constexpr,
    SCALE: tl.constexpr,
    SHIFT: tl.constexpr,
    SUMS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Without ``inside_ptr`` the one source is shown whole; without SCALE (bytes out) values stay 0..255."""
    size: tl.constexpr = OUT_H * OUT_W * CHANNELS
    blocks: tl.constexpr = (size + BLOCK - 1) // BLOCK
    sample = (tl.program_id(0) // blocks).to(tl.int64)
    element = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    valid = element < size
    position, channel = element // CHANNELS, element % CHANNELS
    row, column = position // OUT_W, position % OUT_W
    values = tl.zeros([BLOCK], SUMS)
    if inside_ptr is not None:
        share = coverage(zone_ptr, sample, position, valid, OUT_H * OUT_W, OUT_W, KIND)
    for s in tl.static_range(SOURCES):
        slot = sample * SOURCES + s
        wanted = valid
        if inside_ptr is not None:
            inside, outside = tl.load(inside_ptr + slot), tl.load(outside_ptr + slot)
            weight = (outside + share.to(inside.dtype) * (inside - outside)).to(SUMS)
            wanted = valid & (weight != 0)
        pixels = _source_pixels(
            images_ptr, index_ptr, crop_ptr, flip_ptr, slot, row, column, channel, wanted,
            unique, stride_u, stride_c, stride_h, stride_w, PAD, HEIGHT, WIDTH, OUT_W,
        ).to(SUMS)  # fmt: skip
        if inside_ptr is not None:
            values += weight * pixels
        else:
            values = pixels
    if SCALE is None:
        values = (tl.minimum(tl.maximum(values, 0.0), 255.0) + ROUNDING) - ROUNDING
    else:
        values = values * of_channel(SCALE, channel, CHANNELS, SUMS) + of_channel(SHIFT, channel, CHANNELS, SUMS)
    tl.store(out_ptr + sample * size + element, values.to(out_ptr.dtype.element_ty), mask=valid)


def _constants(
    mean: list[float] | None, std: list[float] | None, channels: int, dtype: torch.dtype
) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Factor and summand of each channel: result = byte * factor + summand. None and None where bytes stay bytes."""
    if dtype == torch.uint8:
        return None, None
    if mean is None or std is None:
        return (1 / 255,) * channels, (0.0,) * channels
    return tuple(1 / (255 * s) for s in std), tuple(-m / s for m, s in zip(mean, std, strict=True))


def augment(
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
    """``mixfast::augment``: uint8 ``[U, c, H, W]``, of any strides, to ``[B, c, h, w]``, channels-last, in ``dtype``."""
    (unique, channels, height, width), batch = images.shape, index.shape[0]
    out_BHWC = images.new_empty((batch, *out_size, channels), dtype=dtype)
    result = out_BHWC.permute(0, 3, 1, 2)
    if out_BHWC.numel() == 0:
        return result
    mixed = inside is not None and outside is not None
    sources = index.shape[1] if mixed else 1
    zone, kind = zone_of(box, bitmap) if mixed else (None, NONE)
    scale, shift = _constants(mean, std, channels, dtype)
    block = BYTE_BLOCK if dtype == torch.uint8 else BLOCK
    with torch.cuda.device_of(images):
        _augment_kernel[(batch * triton.cdiv(out_BHWC[0].numel(), block),)](
            images,
            index[:, :sources].contiguous(),
            crop[:, :sources].contiguous(),
            None if flip is None else flip[:, :sources].contiguous().view(torch.uint8),
            inside.contiguous() if mixed else None,
            outside.contiguous() if mixed else None,
            zone,
            out_BHWC,
            unique,
            *images.stride(),
            SOURCES=sources,
            KIND=kind,
            PAD=pad,
            HEIGHT=height,
            WIDTH=width,
            OUT_H=out_size[0],
            OUT_W=out_size[1],
            CHANNELS=channels,
            SCALE=scale,
            SHIFT=shift,
            SUMS=sums_of(dtype),
            BLOCK=block,
            num_warps=4,
        )
    return result


def aot_cases() -> list[Case]:
    """What ``tools/aot.py`` compiles and measures: CIFAR, Tiny ImageNet and ImageNet-100, plain, CutMix and MixUp."""
    sizes = {"CIFAR": (512, 32, 4), "Tiny ImageNet": (512, 64, 4), "ImageNet-100": (256, 224, 0)}
    runs = (
        ("CIFAR", torch.float32, 1, None),
        ("CIFAR", torch.bfloat16, 2, "box"),
        ("Tiny ImageNet", torch.float16, 2, "bitmap"),
        ("Tiny ImageNet", torch.float64, 2, "box"),
        ("ImageNet-100", torch.bfloat16, 2, "box"),
        ("ImageNet-100", torch.uint8, 1, None),
    )
    return [
        _aot_case(f"{size}, {sources} source{'s' * (sources > 1)}, {zone}", dtype, sources, zone, *sizes[size])
        for size, dtype, sources, zone in runs
    ]


def _aot_case(what: str, dtype: torch.dtype, sources: int, zone: str | None, batch: int, side: int, pad: int) -> Case:
    images = meta(batch, 3, side, side, dtype=torch.uint8, channels_last=True)
    index, crop = meta(batch, sources, dtype=torch.int64), meta(batch, sources, 2, dtype=torch.int64)
    flip, weights = meta(batch, sources, dtype=torch.bool), meta(batch, sources) if zone else None
    box = meta(batch, 4, dtype=torch.int32) if zone == "box" else None
    bitmap = meta(batch, side, side, dtype=torch.bool) if zone == "bitmap" else None
    statistics = (None, None) if dtype == torch.uint8 else ([0.5, 0.4, 0.3], [0.25, 0.2, 0.3])
    arguments = (images, index, crop, flip, weights, weights, box, bitmap, pad, *statistics, dtype, [side, side])
    # Each position shows one source: as many bytes are read as one image has.
    moved = nbytes(images, index, crop, flip, weights, weights, box, bitmap, meta(*images.shape, dtype=dtype))
    return Case(f"augment: forward, {str(dtype).removeprefix('torch.')}, {what}", lambda: augment(*arguments), moved)
