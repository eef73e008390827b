"""unmix_pool in Triton: a program pools a block of channels of one sample, for all M inputs, from one reading.

Two sums a channel say all M results: with ``S_in`` over the zone and ``S_out`` over the rest,

    pooled[b, m, c] = (inside[b, m] * S_in[c] + outside[b, m] * S_out[c]) / P

and backward what a position receives is one of two numbers a channel, mixed by how much of the position is inside.
Channels-last and contiguous features are read as they lie, 128 bits at a time where rows are aligned (contiguous maps of
7 x 7 are not: those are read element by element); others are copied first. Sums are float32, or float64 for float64.
Samples of 2^31 elements and more go through the reference.

Dimensions: B samples, M inputs, C channels, P positions (h * w).
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from mixfast_kernels._triton.aot import Case, meta, nbytes
from mixfast_kernels._triton.interpreter import repair
from mixfast_kernels._triton.precision import sums_of
from mixfast_kernels._triton.zones import coverage, zone_of
from mixfast_kernels.mixing import Mixing
from mixfast_kernels.unmix_pool import _memory_format, unmix_pool_backward_reference, unmix_pool_reference

repair()

# A tile of 64 x 64 is four 128-bit loads in flight for each of 128 threads in bfloat16 (eight in float32), whichever of
# the two dimensions is contiguous, and 8 x 8 positions are one trip. Its two float32 sums take 64 registers a thread;
# float64's would take all there are, so its tile is a quarter.
BLOCK = {2: 64, 4: 64, 8: 32}  # by element size
WARPS = 4
MAX_SAMPLE = 2**31 - 1  # elements of one sample: offsets inside it are 32-bit


@triton.jit
def _tile_offsets(position, channel, count, POSITIONS: tl.constexpr, CHANNELS_LAST: tl.constexpr):
    if CHANNELS_LAST:
        offsets = position[:, None] * count + channel[None, :]
    else:
        offsets = position[:, None] + channel[None, :] * POSITIONS
    return offsets


@triton.jit
def _activated(values, scale, shift, AFFINE: tl.constexpr):
    """relu(scale * values + shift) for a [position, channel] tile, NaN staying NaN; the values as they are without AFFINE."""
    if AFFINE:
        values = values * scale[None, :] + shift[None, :]
        values = tl.where(values < 0, 0.0, values)
    return values


@triton.jit
def _channel_values(pointer, channel, in_channels, AFFINE: tl.constexpr, SUMS: tl.constexpr):
    """A number a channel; without AFFINE there is nothing to read, and nothing reads it."""
    values = tl.zeros(channel.shape, SUMS)
    if AFFINE:
        values = tl.load(pointer + channel, mask=in_channels, other=0).to(SUMS)
    return values


@triton.jit(do_not_specialize=["unmixed"])
def _pool_kernel(
    features_ptr, inside_ptr, outside_ptr, zone_ptr, scale_ptr, shift_ptr, pooled_ptr, count, unmixed,
    M: tl.constexpr, POSITIONS: tl.constexpr, WIDTH: tl.constexpr, CHANNELS_LAST: tl.constexpr, KIND: tl.constexpr,
    AFFINE: tl.constexpr, SUMS: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """One sample's BLOCK_C channels; ``unmixed`` channels are weighted, the others plainly averaged."""
    blocks = tl.cdiv(count, BLOCK_C)
    sample = tl.program_id(0) // blocks
    channel = tl.program_id(0) % blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    in_channels = channel < count
    scale = _channel_values(scale_ptr, channel, in_channels, AFFINE, SUMS)
    shift = _channel_values(shift_ptr, channel, in_channels, AFFINE, SUMS)
    sample_ptr = features_ptr + sample.to(tl.int64) * count * POSITIONS
    within = tl.zeros((BLOCK_P, BLOCK_C), SUMS)
    without = tl.zeros((BLOCK_P, BLOCK_C), SUMS)
    for start in range(0, POSITIONS, BLOCK_P):
        position = start + tl.arange(0, BLOCK_P)
        in_positions = position < POSITIONS
        in_tile = in_positions[:, None] & in_channels[None, :]
        offsets = _tile_offsets(position, channel, count, POSITIONS, CHANNELS_LAST)
        values = tl.load(sample_ptr + offsets, mask=in_tile, other=0).to(SUMS)
        values = tl.where(in_tile, _activated(values, scale, shift, AFFINE), 0.0)
        share = coverage(zone_ptr, sample, position, in_positions, POSITIONS, WIDTH, KIND).to(SUMS)[:, None]
        within += share * values
        without += (1 - share) * values
    sum_within, sum_without = tl.sum(within, 0) / POSITIONS, tl.sum(without, 0) / POSITIONS
    for m in tl.static_range(M):
        row = sample.to(tl.int64) * M + m
        inside = tl.where(channel < unmixed, tl.load(inside_ptr + row).to(SUMS), 1.0)
        outside = tl.where(channel < unmixed, tl.load(outside_ptr + row).to(SUMS), 1.0)
        pooled = inside * sum_within + outside * sum_without
        tl.store(pooled_ptr + row * count + channel, pooled.to(pooled_ptr.dtype.element_ty), mask=in_channels)


@triton.jit(do_not_specialize=["unmixed"])
def _pool_backward_kernel(
    grad_ptr, features_ptr, inside_ptr, outside_ptr, zone_ptr, scale_ptr, shift_ptr,
    grad_features_ptr, affine_parts_ptr, zone_parts_ptr, count, unmixed,
    M: tl.constexpr, POSITIONS: tl.constexpr, WIDTH: tl.constexpr, CHANNELS_LAST: tl.constexpr, KIND: tl.constexpr,
    AFFINE: tl.constexpr, ZONES: tl.constexpr, SUMS: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """One sample's BLOCK_C channels: their gradient, and this program's parts of those of the affine and of the zones.

    ``affine_parts_ptr``: [B, 2, C]; ``zone_parts_ptr``: [B, blocks, 2, M]. The features are read for these parts only.
    """
    blocks = tl.cdiv(count, BLOCK_C)
    sample = tl.program_id(0) // blocks
    channel = tl.program_id(0) % blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    in_channels = channel < count
    weighted = channel < unmixed
    scale = _channel_values(scale_ptr, channel, in_channels, AFFINE, SUMS)
    shift = _channel_values(shift_ptr, channel, in_channels, AFFINE, SUMS)
    grad_inside = tl.zeros((BLOCK_C,), SUMS)
    grad_outside = tl.zeros((BLOCK_C,), SUMS)
    for m in tl.static_range(M):
        row = sample.to(tl.int64) * M + m
        grad = tl.load(grad_ptr + row * count + channel, mask=in_channels, other=0).to(SUMS) / POSITIONS
        grad_inside += tl.where(weighted, tl.load(inside_ptr + row).to(SUMS), 1.0) * grad
        grad_outside += tl.where(weighted, tl.load(outside_ptr + row).to(SUMS), 1.0) * grad
    first = sample.to(tl.int64) * count * POSITIONS
    scale_sums = tl.zeros((BLOCK_P, BLOCK_C), SUMS)
    shift_sums = tl.zeros((BLOCK_P, BLOCK_C), SUMS)
    within = tl.zeros((BLOCK_P, BLOCK_C), SUMS)
    without = tl.zeros((BLOCK_P, BLOCK_C), SUMS)
    for start in range(0, POSITIONS, BLOCK_P):
        position = start + tl.arange(0, BLOCK_P)
        in_positions = position < POSITIONS
        in_tile = in_positions[:, None] & in_channels[None, :]
        offsets = first + _tile_offsets(position, channel, count, POSITIONS, CHANNELS_LAST)
        share = coverage(zone_ptr, sample, position, in_positions, POSITIONS, WIDTH, KIND).to(SUMS)[:, None]
        grad_values = share * grad_inside[None, :] + (1 - share) * grad_outside[None, :]
        if AFFINE or ZONES:
            features = tl.load(features_ptr + offsets, mask=in_tile, other=0).to(SUMS)
            values = tl.where(in_tile, _activated(features, scale, shift, AFFINE), 0.0)
        if ZONES:
            within += share * values
            without += (1 - share) * values
        if AFFINE:
            grad_values *= (values > 0).to(SUMS)
            scale_sums += grad_values * features
            shift_sums += grad_values
            grad_values *= scale[None, :]
        tl.store(grad_features_ptr + offsets, grad_values.to(grad_features_ptr.dtype.element_ty), mask=in_tile)
    if AFFINE:
        parts_ptr = affine_parts_ptr + sample.to(tl.int64) * 2 * count + channel
        tl.store(parts_ptr, tl.sum(scale_sums, 0), mask=in_channels)
        tl.store(parts_ptr + count, tl.sum(shift_sums, 0), mask=in_channels)
    if ZONES:
        sum_within, sum_without = tl.sum(within, 0), tl.sum(without, 0)
        for m in tl.static_range(M):
            row = sample.to(tl.int64) * M + m
            grad = tl.load(grad_ptr + row * count + channel, mask=in_channels & weighted, other=0).to(SUMS) / POSITIONS
            part_ptr = zone_parts_ptr + tl.program_id(0).to(tl.int64) * 2 * M + m
            tl.store(part_ptr, tl.sum(grad * sum_within, 0))
            tl.store(part_ptr + M, tl.sum(grad * sum_without, 0))


def unmix_pool(
    features_BChw: Tensor,
    inside_BM: Tensor,
    outside_BM: Tensor,
    box: Tensor | None,
    bitmap: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    channels: int,
    grid: list[int],
) -> Tensor:
    """``[B, C, h, w]`` to ``[B, M, C]``, in the dtype of the features."""
    batch, count, height, width = features_BChw.shape
    if count * height * width > MAX_SAMPLE:
        return unmix_pool_reference(features_BChw, inside_BM, outside_BM, box, bitmap, scale, shift, channels, grid)
    pooled_BMC = features_BChw.new_empty(batch, inside_BM.shape[1], count)
    if batch == 0 or pooled_BMC.numel() == 0:
        return pooled_BMC
    features_BChw = features_BChw.contiguous(memory_format=_memory_format(features_BChw))
    tensors, shared = _shared_arguments(features_BChw, inside_BM, outside_BM, box, bitmap, scale, shift, grid)
    with torch.cuda.device_of(features_BChw):
        _pool_kernel[(batch * triton.cdiv(count, shared["BLOCK_C"]),)](
            features_BChw, *tensors, pooled_BMC, count, int(channels), **shared
        )
    return pooled_BMC


def unmix_pool_backward(
    grad_BMC: Tensor,
    features_BChw: Tensor,
    inside_BM: Tensor,
    outside_BM: Tensor,
    box: Tensor | None,
    bitmap: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    channels: int,
    grid: list[int],
    zones: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of features, inside, outside, scale and shift; empty for what is absent, or not wanted (``zones``).

    Every program writes its parts of the affine's and the zones' gradients, which are then summed in a fixed order.
    """
    batch, count, height, width = features_BChw.shape
    arguments = (features_BChw, inside_BM, outside_BM, box, bitmap, scale, shift)
    if batch == 0 or features_BChw.numel() == 0 or count * height * width > MAX_SAMPLE:
        return unmix_pool_backward_reference(grad_BMC, *arguments, channels, grid, zones)
    features_BChw = features_BChw.contiguous(memory_format=_memory_format(features_BChw))
    tensors, shared = _shared_arguments(features_BChw, *arguments[1:], grid)
    inputs, blocks = inside_BM.shape[1], triton.cdiv(count, shared["BLOCK_C"])
    sums = torch.promote_types(features_BChw.dtype, torch.float32)
    grad_features = torch.empty_like(features_BChw, memory_format=_memory_format(features_BChw))
    affine_parts = features_BChw.new_empty(batch, 2, count, dtype=sums) if shared["AFFINE"] else None
    zone_parts = features_BChw.new_empty(batch, blocks, 2, inputs, dtype=sums) if zones else None
    read = features_BChw if zones or shared["AFFINE"] else None
    with torch.cuda.device_of(features_BChw):
        _pool_backward_kernel[(batch * blocks,)](
            grad_BMC.contiguous(), read, *tensors, grad_features, affine_parts, zone_parts, count, int(channels),
            ZONES=zones, **shared,
        )  # fmt: skip
    grad_inside, grad_outside = inside_BM.new_empty(0), outside_BM.new_empty(0)
    if zone_parts is not None:
        grad_inside, grad_outside = (zone_parts[:, :, zone].sum(1).to(inside_BM.dtype) for zone in (0, 1))
    grad_scale, grad_shift = features_BChw.new_empty(0), features_BChw.new_empty(0)
    if affine_parts is not None and scale is not None and shift is not None:
        grad_scale, grad_shift = affine_parts[:, 0].sum(0).to(scale.dtype), affine_parts[:, 1].sum(0).to(shift.dtype)
    return grad_features, grad_inside, grad_outside, grad_scale, grad_shift


def _shared_arguments(
    features: Tensor,
    inside: Tensor,
    outside: Tensor,
    box: Tensor | None,
    bitmap: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    grid: list[int],
) -> tuple[tuple[Tensor | None, ...], dict[str, Any]]:
    """What both kernels take: the tensors of mix and affine, and the constants. The mix is brought to the features' grid."""
    _, count, height, width = features.shape
    if (grid[0], grid[1]) != (height, width):
        resized = Mixing(inside, outside, (int(grid[0]), int(grid[1])), box, bitmap).resized((height, width))
        box, bitmap = resized.box, resized.bitmap
    zone, kind = zone_of(box, bitmap)
    affine, block = scale is not None and shift is not None, BLOCK[features.element_size()]
    tensors = (
        inside.contiguous(), outside.contiguous(), zone,
        scale.contiguous() if affine else None, shift.contiguous() if affine else None,
    )  # fmt: skip
    constants = {
        "M": inside.shape[1],
        "POSITIONS": height * width,
        "WIDTH": width,
        "CHANNELS_LAST": not features.is_contiguous(),
        "KIND": kind,
        "AFFINE": affine,
        "SUMS": sums_of(features.dtype),
        "BLOCK_C": min(block, triton.next_power_of_2(count)),
        "BLOCK_P": min(block, triton.next_power_of_2(height * width)),
        "num_warps": WARPS,
    }
    return tensors, constants


def aot_cases() -> list[Case]:
    """Sizes of the thesis: WRN-28-10 on CIFAR, ResNet-18-5 on Tiny ImageNet and ResNet-50 on ImageNet, 7 x 7 positions."""
    cases = []
    for name, (batch, count, side), dtype, channels_last, zone, affine in (
        ("WRN-28-10", (128, 640, 8), torch.bfloat16, True, "box", True),
        ("WRN-28-10", (128, 640, 8), torch.bfloat16, True, "box", False),
        ("WRN-28-10, contiguous", (128, 640, 8), torch.bfloat16, False, "box", True),
        ("ResNet-18-5", (128, 2560, 8), torch.float32, True, "bitmap", True),
        ("ResNet-50", (64, 2048, 7), torch.float16, True, "none", False),
        ("WRN-28-2", (64, 128, 8), torch.float64, True, "box", True),
    ):
        features = meta(batch, count, side, side, dtype=dtype, channels_last=channels_last)
        weights = meta(batch, 2)
        box = meta(batch, 4, dtype=torch.int32) if zone == "box" else None
        bitmap = meta(batch, side, side, dtype=torch.bool) if zone == "bitmap" else None
        scale, shift = (meta(count), meta(count)) if affine else (None, None)
        mix = (weights, weights, box, bitmap, scale, shift)
        pooled = meta(batch, 2, count, dtype=dtype)
        label = f"{str(dtype).removeprefix('torch.')}, {name}{', affine' if affine else ''}"
        rest, small = (count, [side, side]), nbytes(*mix, pooled)
        forward = functools.partial(unmix_pool, features, *mix, *rest)
        cases.append(Case(f"unmix_pool: forward, {label}", forward, nbytes(features) + small))
        # Backward the features are needed for the ReLU alone; the affine's two gradients come out.
        moved = nbytes(features) * (2 if affine else 1) + nbytes(scale, shift)
        backward = functools.partial(unmix_pool_backward, pooled, features, *mix, *rest, False)
        cases.append(Case(f"unmix_pool: backward, {label}", backward, moved + small))
    return cases
