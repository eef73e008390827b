"""mask_mix_encode in Triton: gather, normalisation, zone, convolution, scale and position embedding in one kernel.

Any kernel size, stride and padding is an implicit product of windows with encoders (``encode_kernels``). Patch projections
(stride == kernel size, no padding) with an encoder an input take their positions in the order of the input they show, so
that a binary mask costs one product; stems, whose product is small beside their output, take them as they lie.

Backward, one pass over the result's gradient gives those of encoders, bias and position embedding (``encode_gradients``),
a second one, where it is wanted, that of the images (``encode_image_gradient``). The gradients of zone weights, which training
never asks for, are plain PyTorch's. The reference (``mixfast_kernels.mask_mix_encode``) does what remains: float64, which is for
checks and whose products some versions of Triton cannot compile, images of more than ``MAX_IMAGE_CHANNELS`` channels, empty
tensors, and results of 2^31 positions and more.

An image index outside 0..U-1 is not read: that input is 0 there, as refusing it would wait for the device. (For the gradients
of zone weights PyTorch takes the images, which refuses it.)
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import triton
from torch import Tensor

from mixfast_kernels._triton.aot import Case, meta, nbytes
from mixfast_kernels._triton.encode_gradients import parameter_gradients
from mixfast_kernels._triton.encode_image_gradient import image_gradient
from mixfast_kernels._triton.encode_kernels import STAGES, encode_kernel, fitted_tile
from mixfast_kernels._triton.grouped_product import order_of
from mixfast_kernels._triton.precision import products_of, sums_of
from mixfast_kernels._triton.zones import zone_of
from mixfast_kernels.mask_mix_encode import (
    mask_mix_encode_backward_reference,
    mask_mix_encode_reference,
    normalised_images,
    slots_of,
    zone_weight_gradients,
)
from mixfast_kernels.mixing import Mixing

# Their statistics are constants of the kernels, chosen by comparing a channel with each of them.
MAX_IMAGE_CHANNELS = 16
# Positions, most taps and most channels of a tile by the encoders' element size: 128 channels gather the windows of a stem of
# 128 once; larger tiles in bfloat16 and 32 taps in float32 spill on some card, or take most of its registers.
FORWARD = {2: (32, 32, 128), 4: (64, 16, 64)}
# From this many positions on a tile stays inside one sample, whose box and images it then reads once.
MANY_POSITIONS = 512


def mask_mix_encode(
    images: Tensor,
    weight: Tensor,
    inside: Tensor,
    outside: Tensor,
    box: Tensor | None,
    bitmap: Tensor | None,
    index: Tensor | None,
    bias: Tensor | None,
    position: Tensor | None,
    grid: list[int],
    stride: int,
    padding: int,
    scale: float,
    mean: list[float] | None,
    std: list[float] | None,
) -> Tensor:
    """``mixfast::mask_mix_encode``: ``[U, c, H, W]`` to ``[B, C, H', W']``, channels-last, in the dtype of ``weight``."""
    if not _takes(images, weight, inside, grid):
        return mask_mix_encode_reference(
            images, weight, inside, outside, box, bitmap, index, bias, position, grid, stride, padding, scale, mean, std
        )
    batch, channels = inside.shape[0], weight.shape[1]
    positions = grid[0] * grid[1]
    result_BPC = weight.new_empty(batch, positions, channels)
    zone, kind = zone_of(box, bitmap)
    statistics = _normalisation(images, mean, std)
    constants = _constants(images, weight, inside, kind, grid, stride, padding, scale, statistics)
    block_p, block_t, block_c = fitted_tile(FORWARD, weight)
    mix = (inside.contiguous(), outside.contiguous(), zone)
    with torch.cuda.device_of(images):
        order = None
        if weight.shape[0] > 1 and stride == weight.shape[3] and padding == 0:
            names = {"N": positions, "WIDTH": grid[1], "M": inside.shape[1], "KIND": kind, "SUMS": constants["SUMS"]}
            order = order_of(result_BPC, mix, names)
        by_sample = order is None and positions >= MANY_POSITIONS
        slots = batch * positions if order is None else order.shape[0]
        tiles = batch * triton.cdiv(positions, block_p) if by_sample else triton.cdiv(slots, block_p)
        encode_kernel[(tiles * triton.cdiv(channels, block_c),)](
            images,
            _by_taps(weight, constants["PACKED"]),
            *mix,
            None if index is None else index.contiguous(),
            None if bias is None else bias.contiguous(),
            None if position is None else position.contiguous(),
            order,
            result_BPC,
            images.shape[0],
            slots,
            grid[1],
            *images.stride(),
            **constants,
            BY_SAMPLE=by_sample,
            BLOCK_P=block_p,
            BLOCK_T=block_t,
            BLOCK_C=block_c,
            # At least 8 sums a thread, so that bfloat16 is stored in 128 bits.
            num_warps=8 if block_p * block_c >= 4096 else 4,
            num_stages=STAGES,
        )
    return result_BPC.view(batch, *grid, channels).permute(0, 3, 1, 2)


def mask_mix_encode_backward(
    grad: Tensor,
    images: Tensor,
    weight: Tensor,
    inside: Tensor,
    outside: Tensor,
    box: Tensor | None,
    bitmap: Tensor | None,
    index: Tensor | None,
    bias: Tensor | None,
    position: Tensor | None,
    grid: list[int],
    stride: int,
    padding: int,
    scale: float,
    mean: list[float] | None,
    std: list[float] | None,
    wanted: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """``mixfast::mask_mix_encode_backward``: gradients of images, weight, inside, outside, bias and position.

    ``wanted``: whether those of the images, and of inside and outside, are.
    """
    wants_images, wants_zones = wanted
    if not _takes(images, weight, inside, grid) or (wants_images and not images.is_floating_point()):
        return mask_mix_encode_backward_reference(
            grad, images, weight, inside, outside, box, bitmap, index, bias, position,
            grid, stride, padding, scale, mean, std, wanted,
        )  # fmt: skip
    batch, positions = inside.shape[0], grid[0] * grid[1]
    zone, kind = zone_of(box, bitmap)
    statistics = _normalisation(images, mean, std)
    constants = _constants(images, weight, inside, kind, grid, stride, padding, scale, statistics)
    grad = grad.to(weight.dtype).contiguous(memory_format=torch.channels_last)
    grad_BPC = grad.permute(0, 2, 3, 1).view(batch, positions, weight.shape[1])
    at = None if index is None else index.contiguous()
    mix = (inside.contiguous(), outside.contiguous(), zone)
    grad_images, grad_inside, grad_outside = images.new_empty(0), inside.new_empty(0), outside.new_empty(0)
    with torch.cuda.device_of(images):
        grad_weight, grad_bias, grad_position = parameter_gradients(
            grad_BPC, images, weight, mix, at, bias, position, constants
        )
        if wants_images:
            encoders_ETC = _by_taps(weight, constants["PACKED"])
            grad_images = image_gradient(grad_BPC, images, encoders_ETC, mix, at, constants).to(images.dtype)
    if wants_zones:
        slots = slots_of(normalised_images(images, mean, std, weight.dtype), index, inside.shape[1])
        mixing = Mixing(inside, outside, (grid[0], grid[1]), box, bitmap)
        grad_inside, grad_outside = zone_weight_gradients(grad, slots, weight, mixing, bias, stride, padding, scale)
    return (
        grad_images,
        grad_weight,
        grad_inside,
        grad_outside,
        weight.new_empty(0) if grad_bias is None else grad_bias,
        weight.new_empty(0) if grad_position is None else grad_position,
    )


def _takes(images: Tensor, weight: Tensor, inside: Tensor, grid: list[int]) -> bool:
    result = inside.shape[0] * grid[0] * grid[1]
    return (
        weight.dtype != torch.float64
        and 0 < result < 2**31
        and 0 < images.shape[1] <= MAX_IMAGE_CHANNELS
        and inside.numel() > 0 < weight.numel()
    )


def _constants(
    images: Tensor,
    weight: Tensor,
    inside: Tensor,
    kind: str,
    grid: list[int],
    stride: int,
    padding: int,
    scale: float,
    statistics: tuple[tuple[float, ...] | None, tuple[float, ...] | None],
) -> dict[str, Any]:
    """What both kernels know when they are compiled: nothing here changes with the batch."""
    _, channels, height, width = images.shape
    return {
        "P": grid[0] * grid[1],
        "GRID_W": grid[1],
        "C": weight.shape[1],
        "E": weight.shape[0],
        "M": inside.shape[1],
        "CHANNELS": channels,
        "HEIGHT": height,
        "WIDTH": width,
        "KERNEL": weight.shape[3],
        "STRIDE": stride,
        "PADDING": padding,
        "PACKED": images.stride(3) == channels and (channels == 1 or images.stride(1) == 1),
        "KIND": kind,
        "SCALE": scale,
        "CENTRE": statistics[0],
        "FACTOR": statistics[1],
        "SUMS": sums_of(weight.dtype),
        "PRECISION": products_of(weight.dtype),
    }


def _normalisation(
    images: Tensor, mean: list[float] | None, std: list[float] | None
) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Centre and factor of each channel: normalised = (pixel - centre) * factor; None and None leave pixels as they are."""
    unit = 255.0 if images.dtype == torch.uint8 else 1.0
    if mean is not None and std is not None:
        return tuple(unit * m for m in mean), tuple(1 / (unit * s) for s in std)
    if unit == 1.0:
        return None, None
    return (0.0,) * images.shape[1], (1 / unit,) * images.shape[1]


def _by_taps(weight_ECckk: Tensor, packed: bool) -> Tensor:
    """The encoders as ``[E, taps, C]``, taps in the order of the kernels' windows."""
    order = (0, 3, 4, 2, 1) if packed else (0, 2, 3, 4, 1)
    return weight_ECckk.permute(order).contiguous()


def aot_cases() -> list[Case]:
    """Sizes of the thesis: the stems of WRN-28 (CIFAR) and of a residual network (Tiny ImageNet, stride 2), and the patch
    projections of ConViT (Tiny ImageNet) and CaiT-XS (ImageNet-100); two inputs, a box, uint8 images."""
    shapes = {
        "CIFAR stem": (128, 2, 32, 16, 3, 1, 1),
        "Tiny ImageNet stem": (128, 2, 64, 128, 3, 2, 1),
        "ConViT patches": (128, 2, 64, 384, 8, 8, 0),
        "CaiT-XS patches": (64, 1, 224, 288, 16, 16, 0),
    }
    runs = (
        ("CIFAR stem", torch.bfloat16),
        ("CIFAR stem", torch.float32),
        ("Tiny ImageNet stem", torch.float16),
        ("ConViT patches", torch.bfloat16),
        ("ConViT patches", torch.float32),
        ("CaiT-XS patches", torch.bfloat16),
    )
    with_images = (
        ("CIFAR stem", torch.bfloat16),
        ("Tiny ImageNet stem", torch.float16),
        ("ConViT patches", torch.bfloat16),
        ("ConViT patches", torch.float32),
    )
    return [case for name, dtype in runs for case in _aot_cases(name, dtype, False, *shapes[name])] + [
        case for name, dtype in with_images for case in _aot_cases(name, dtype, True, *shapes[name])
    ]


def _aot_cases(
    name: str,
    dtype: torch.dtype,
    with_images: bool,
    batch: int,
    encoders: int,
    side: int,
    channels: int,
    kernel: int,
    stride: int,
    padding: int,
) -> list[Case]:
    """Forward and backward; or backward ``with_images``, which are of ``dtype`` then and have a gradient."""
    grid = [(side + 2 * padding - kernel) // stride + 1] * 2
    images = meta(batch, 3, side, side, dtype=dtype if with_images else torch.uint8, channels_last=True)
    weight, bias = meta(encoders, channels, 3, kernel, kernel, dtype=dtype), meta(encoders, channels, dtype=dtype)
    weights, box, index = meta(batch, 2), meta(batch, 4, dtype=torch.int32), meta(batch, 2, dtype=torch.int64)
    position = meta(channels, *grid, dtype=dtype) if padding == 0 else None
    result = meta(batch, channels, *grid, dtype=dtype, channels_last=True)
    tensors = (images, weight, weights, weights, box, None, index, bias, position)
    settings = (grid, stride, padding, 2.0, [0.5, 0.4, 0.3], [0.25, 0.2, 0.3])
    # A binary mask: each position meets one window and one encoder, and is one pixel of one image at a stem.
    flops = 2 * result.numel() * 3 * kernel * kernel
    label, parameters = f"{str(dtype).removeprefix('torch.')}, {name}", nbytes(weight, bias, position)
    forward = functools.partial(mask_mix_encode, *tensors, *settings)
    backward = functools.partial(mask_mix_encode_backward, result, *tensors, *settings, [with_images, False])
    floor = nbytes(*tensors, result)
    if with_images:
        floor += parameters + nbytes(images)
        return [Case(f"mask_mix_encode: backward with images, {label}", backward, floor, 2 * flops, dtype)]
    return [
        Case(f"mask_mix_encode: forward, {label}", forward, floor, flops, dtype),
        Case(f"mask_mix_encode: backward, {label}", backward, floor + parameters, flops, dtype),
    ]
