"""mask_mix_encode in Triton: gather, normalisation, zone, convolution, scale and position embedding in one kernel.

Any kernel size, stride and padding is an implicit product of windows with encoders (``encode_kernels``). Patch projections
(stride == kernel size, no padding) with an encoder an input take their positions in the order of the input they show, so
that a binary mask costs one product; stems, whose product is small beside their output, take them as they lie.

Backward, one kernel gives the gradients of encoders, bias and position embedding in parts that are added in a fixed
order. The reference (``mixfast_kernels.mask_mix_encode``) does what remains: gradients of images and of zone weights,
images of more than ``MAX_IMAGE_CHANNELS`` channels, empty tensors, and results of 2^31 positions and more.

An image index outside 0..U-1 is not read: that input is 0 there, as refusing it would wait for the device.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from mixfast_kernels._triton.aot import Case, meta, nbytes
from mixfast_kernels._triton.encode_kernels import encode_kernel, gradient_kernel
from mixfast_kernels._triton.grouped_product import ordered
from mixfast_kernels._triton.precision import products_of, sums_of
from mixfast_kernels._triton.zones import zone_of
from mixfast_kernels.mask_mix_encode import mask_mix_encode_backward_reference, mask_mix_encode_reference

# Their statistics are constants of the kernels, chosen by comparing a channel with each of them.
MAX_IMAGE_CHANNELS = 16
# Positions, most taps and most channels of a tile by the encoders' element size. Forward: 128 channels gather the windows of
# a stem of 128 once; larger tiles in bfloat16 and 32 taps in float32 spill on some card, or take most of its registers.
FORWARD = {2: (32, 32, 128), 4: (64, 16, 64), 8: (32, 16, 32)}
BACKWARD = {2: (64, 64, 64), 4: (32, 32, 64), 8: (16, 16, 32)}
# The next tile of encoders is on its way while one is multiplied.
STAGES = 2
# Forward, from this many positions on a tile stays inside one sample, whose box and images it then reads once.
MANY_POSITIONS = 512
# Programs of the backward pass, whatever the device (results must not depend on it): several to each multiprocessor.
PROGRAMS = 1024
# The operands of tl.dot are at least this long.
SHORTEST = 16


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
    positions, pixels = grid[0] * grid[1], _readable(images, weight)
    result_BPC = weight.new_empty(batch, positions, channels)
    zone, kind = zone_of(box, bitmap)
    statistics = _normalisation(images, mean, std)
    constants = _constants(pixels, weight, inside, kind, grid, stride, padding, scale, statistics)
    block_p, block_t, block_c = _tile(FORWARD, weight)
    mix = (inside.contiguous(), outside.contiguous(), zone)
    with torch.cuda.device_of(images):
        order = None
        if weight.shape[0] > 1 and stride == weight.shape[3] and padding == 0:
            names = {"N": positions, "WIDTH": grid[1], "M": inside.shape[1], "KIND": kind, "SUMS": constants["SUMS"]}
            order = ordered(result_BPC, mix, names)[0]
        by_sample = order is None and positions >= MANY_POSITIONS
        slots = batch * positions if order is None else order.shape[0]
        tiles = batch * triton.cdiv(positions, block_p) if by_sample else triton.cdiv(slots, block_p)
        encode_kernel[(tiles * triton.cdiv(channels, block_c),)](
            pixels,
            _by_taps(weight, constants["PACKED"]),
            *mix,
            None if index is None else index.contiguous(),
            None if bias is None else bias.contiguous(),
            None if position is None else position.contiguous(),
            order,
            result_BPC,
            images.shape[0],
            slots,
            *pixels.stride(),
            **constants,
            BY_SAMPLE=by_sample,
            BLOCK_P=block_p,
            BLOCK_T=block_t,
            BLOCK_C=block_c,
            num_warps=_warps(block_p, block_c),
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

    Those of the images and of the zone weights are the reference's, with all the others, when one of them is wanted.
    """
    if any(wanted) or not _takes(images, weight, inside, grid):
        return mask_mix_encode_backward_reference(
            grad, images, weight, inside, outside, box, bitmap, index, bias, position,
            grid, stride, padding, scale, mean, std, wanted,
        )  # fmt: skip
    batch, (encoders, channels, colours, kernel, _) = inside.shape[0], weight.shape
    positions, taps, pixels = grid[0] * grid[1], colours * kernel * kernel, _readable(images, weight)
    zone, kind = zone_of(box, bitmap)
    statistics = _normalisation(images, mean, std)
    constants = _constants(pixels, weight, inside, kind, grid, stride, padding, scale, statistics)
    block_p, block_t, block_c = _tile(BACKWARD, weight)
    tiles_p = triton.cdiv(positions, block_p)
    tiles = tiles_p * encoders * triton.cdiv(taps, block_t) * triton.cdiv(channels, block_c)
    splits = min(batch, triton.cdiv(PROGRAMS, tiles))
    sums = torch.promote_types(weight.dtype, torch.float32)
    encoder_parts = weight.new_empty(splits * tiles_p, encoders, taps, channels, dtype=sums)
    bias_parts = None if bias is None else weight.new_empty(splits * tiles_p, encoders, channels, dtype=sums)
    position_parts = None if position is None else weight.new_empty(splits, positions, channels, dtype=sums)
    with torch.cuda.device_of(images):
        gradient_kernel[(tiles * splits,)](
            grad.permute(0, 2, 3, 1).contiguous(),
            pixels,
            inside.contiguous(),
            outside.contiguous(),
            zone,
            None if index is None else index.contiguous(),
            encoder_parts,
            bias_parts,
            position_parts,
            images.shape[0],
            batch,
            splits,
            *pixels.stride(),
            **constants,
            OPERAND=_TYPES[weight.dtype],
            BLOCK_P=block_p,
            BLOCK_T=block_t,
            BLOCK_C=block_c,
            num_warps=_warps(block_t, block_c),
            num_stages=STAGES,
        )
    none = weight.new_empty(0)
    return (
        images.new_empty(0),
        _from_taps(encoder_parts.sum(0), weight, constants["PACKED"]),
        inside.new_empty(0),
        outside.new_empty(0),
        none if bias is None else bias_parts.sum(0).to(bias.dtype),
        weight.new_empty(0) if position is None else _like(position_parts.sum(0).T, position),
    )


_TYPES = {
    torch.float32: tl.float32,
    torch.float64: tl.float64,
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
}


def _takes(images: Tensor, weight: Tensor, inside: Tensor, grid: list[int]) -> bool:
    result = inside.shape[0] * grid[0] * grid[1]
    return 0 < result < 2**31 and 0 < images.shape[1] <= MAX_IMAGE_CHANNELS and inside.numel() > 0 < weight.numel()


def _tile(table: dict[int, tuple[int, int, int]], weight: Tensor) -> tuple[int, int, int]:
    """Positions, taps and channels of a tile, as few as the encoders need."""
    positions, taps, channels = table[weight.element_size()]
    has_taps, has_channels = triton.next_power_of_2(weight[0, 0].numel()), triton.next_power_of_2(weight.shape[1])
    return positions, min(taps, max(SHORTEST, has_taps)), min(channels, max(SHORTEST, has_channels))


def _warps(rows: int, columns: int) -> int:
    """For a tile of sums: at least 8 a thread, so that bfloat16 is stored in 128 bits."""
    return 8 if rows * columns >= 4096 else 4


def _constants(
    pixels: Tensor,
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
    _, channels, height, width = pixels.shape
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
        "PACKED": pixels.stride(3) == channels and (channels == 1 or pixels.stride(1) == 1),
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


def _readable(images: Tensor, weight: Tensor) -> Tensor:
    """The images as the kernels take them: as they are, but float64 products, which are for checks, want float64 pixels
    (Triton 3.8 cannot compile those of narrower ones)."""
    return images.to(torch.float64) if weight.dtype == torch.float64 else images


def _by_taps(weight_ECckk: Tensor, packed: bool) -> Tensor:
    """The encoders as ``[E, taps, C]``, taps in the order of the kernels' windows."""
    order = (0, 3, 4, 2, 1) if packed else (0, 2, 3, 4, 1)
    return weight_ECckk.permute(order).contiguous()


def _from_taps(grad_ETC: Tensor, weight_ECckk: Tensor, packed: bool) -> Tensor:
    encoders, channels, colours, kernel, _ = weight_ECckk.shape
    if packed:
        grad = grad_ETC.view(encoders, kernel, kernel, colours, channels).permute(0, 4, 3, 1, 2)
    else:
        grad = grad_ETC.view(encoders, colours, kernel, kernel, channels).permute(0, 4, 1, 2, 3)
    return _like(grad, weight_ECckk)


def _like(grad: Tensor, parameter: Tensor) -> Tensor:
    """In the dtype and shape of the parameter, contiguous: one copy does it all."""
    return parameter.new_empty(parameter.shape).copy_(grad.reshape(parameter.shape) if grad.dim() == 2 else grad)


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
        ("CIFAR stem", torch.float64),
        ("Tiny ImageNet stem", torch.float16),
        ("ConViT patches", torch.bfloat16),
        ("ConViT patches", torch.float32),
        ("CaiT-XS patches", torch.bfloat16),
    )
    return [case for name, dtype in runs for case in _aot_pair(name, dtype, *shapes[name])]


def _aot_pair(
    name: str,
    dtype: torch.dtype,
    batch: int,
    encoders: int,
    side: int,
    channels: int,
    kernel: int,
    stride: int,
    padding: int,
) -> list[Case]:
    grid = [(side + 2 * padding - kernel) // stride + 1] * 2
    images = meta(batch, 3, side, side, dtype=torch.uint8, channels_last=True)
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
    backward = functools.partial(mask_mix_encode_backward, result, *tensors, *settings, [False, False])
    floor = nbytes(*tensors, result)
    return [
        Case(f"mask_mix_encode: forward, {label}", forward, floor, flops, dtype),
        Case(f"mask_mix_encode: backward, {label}", backward, floor + parameters, flops, dtype),
    ]
