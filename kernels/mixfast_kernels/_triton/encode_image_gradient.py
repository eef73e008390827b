"""The gradient of mask_mix_encode's images: each pixel sums the windows that see it, in every place that takes its image.

A program has some pixels of one image and goes through the slots of ``index`` that take it, in the order of their numbers, so
that its sum is written once, without atomics and in a fixed order. The slots of an image are found by a stable sort of
``index``; an image that no slot takes gets 0.

Pixels are cut into cells of stride x stride. The windows that see a cell begin at it and at the ``REACH - 1`` cells before it,
along either axis; the rows of a product are cells, its columns the pixels of a cell, its depth the channels of the result.
Patch projections, a cell a window, are one product; a 3x3 stem has 9 of few columns. Cells that a slot does not show at such
a distance are neither read nor multiplied.

Dimensions: U images, B samples, P positions, T taps, C channels of the result, E encoders, M inputs.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from mixfast_kernels._triton.encode_kernels import SHORTEST, STAGES, source
from mixfast_kernels._triton.pixels import of_channel
from mixfast_kernels._triton.zones import coverage

# Most cells, pixels of a cell and channels of a tile by the encoders' element size.
TILE = {2: (64, 64, 64), 4: (32, 32, 32)}


@triton.jit
def image_gradient_kernel(
    grad_ptr, encoders_ptr, inside_ptr, outside_ptr, zone_ptr, slots_ptr, starts_ptr, result_ptr,
    stride_u, stride_c, stride_h, stride_w,
    P: tl.constexpr, GRID_W: tl.constexpr, C: tl.constexpr, E: tl.constexpr, M: tl.constexpr, CHANNELS: tl.constexpr,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, KERNEL: tl.constexpr, STRIDE: tl.constexpr, PADDING: tl.constexpr,
    PACKED: tl.constexpr, KIND: tl.constexpr, SCALE: tl.constexpr, FACTOR: tl.constexpr, SUMS: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """BLOCK_P cells of one image by BLOCK_T of their pixels.

    grad_ptr: [B, P, C]; encoders_ptr: [E, T, C]; result_ptr: images. slots_ptr: the slots sample * M + input by their image;
    starts_ptr: [U + 1], where an image's begin among them; both None: slot i takes image i // M.
    """
    taps: tl.constexpr = KERNEL * KERNEL * CHANNELS
    pixels: tl.constexpr = STRIDE * STRIDE * CHANNELS
    reach: tl.constexpr = (KERNEL + STRIDE - 1) // STRIDE
    cells_w: tl.constexpr = (WIDTH + PADDING - 1) // STRIDE + 1
    cells: tl.constexpr = ((HEIGHT + PADDING - 1) // STRIDE + 1) * cells_w
    tiles_t: tl.constexpr = (pixels + BLOCK_T - 1) // BLOCK_T
    tiles_p: tl.constexpr = (cells + BLOCK_P - 1) // BLOCK_P
    pixel = tl.program_id(0) % tiles_t * BLOCK_T + tl.arange(0, BLOCK_T)
    cell = tl.program_id(0) // tiles_t % tiles_p * BLOCK_P + tl.arange(0, BLOCK_P)
    image = (tl.program_id(0) // (tiles_t * tiles_p)).to(tl.int64)
    cell_y, cell_x = cell // cells_w, cell % cells_w
    if PACKED:
        channel, in_x, in_y = pixel % CHANNELS, pixel // CHANNELS % STRIDE, pixel // (CHANNELS * STRIDE)
    else:
        in_x, in_y, channel = pixel % STRIDE, pixel // STRIDE % STRIDE, pixel // (STRIDE * STRIDE)
    first, last = image * M, image * M + M
    if starts_ptr is not None:
        first, last = tl.load(starts_ptr + image), tl.load(starts_ptr + image + 1)
    total = tl.zeros((BLOCK_P, BLOCK_T), SUMS)
    for at in range(first, last):
        slot = at
        if slots_ptr is not None:
            slot = tl.load(slots_ptr + at)
        sample, m = slot // M, slot % M
        encoder = m if E > 1 else 0
        for back in range(0, reach * reach):
            back_y, back_x = back // reach, back % reach
            y, x = cell_y - back_y, cell_x - back_x
            exists = (y >= 0) & (x >= 0) & (x < GRID_W) & (y * GRID_W + x < P) & (cell < cells)
            position = tl.where(exists, y * GRID_W + x, 0)
            share = coverage(zone_ptr, sample, position, exists, P, GRID_W, KIND)
            weight, _ = source(inside_ptr, outside_ptr, None, sample, share, exists, m, M, SCALE, SUMS)
            shown = weight != 0
            if tl.max(shown.to(tl.int32), 0) != 0:
                row, column = in_y + back_y * STRIDE, in_x + back_x * STRIDE
                in_window = (row < KERNEL) & (column < KERNEL) & (pixel < pixels)
                if PACKED:
                    tap = (row * KERNEL + column) * CHANNELS + channel
                else:
                    tap = (channel * KERNEL + row) * KERNEL + column
                product = tl.zeros((BLOCK_P, BLOCK_T), SUMS)
                for start in range(0, C, BLOCK_C):
                    out = start + tl.arange(0, BLOCK_C)
                    grad_at = (sample.to(tl.int64) * P + position)[:, None] * C + out[None, :]
                    grad = tl.load(grad_ptr + grad_at, mask=shown[:, None] & (out < C)[None, :], other=0)
                    encoder_ptr = encoders_ptr + (encoder * taps + tap)[None, :] * C + out[:, None]
                    matrix = tl.load(encoder_ptr, mask=in_window[None, :] & (out < C)[:, None], other=0)
                    product = tl.dot(grad, matrix, product, input_precision=PRECISION, out_dtype=SUMS)
                # Where a window misses a pixel, an infinite gradient must not meet its 0.
                meets = shown[:, None] & in_window[None, :]
                total += tl.where(meets, weight[:, None] * product, 0.0)
    if FACTOR is not None:
        total *= of_channel(FACTOR, channel, CHANNELS, SUMS)[None, :]
    y, x = (cell_y * STRIDE - PADDING)[:, None] + in_y[None, :], (cell_x * STRIDE - PADDING)[:, None] + in_x[None, :]
    in_image = (y >= 0) & (y < HEIGHT) & (x >= 0) & (x < WIDTH) & (cell < cells)[:, None] & (pixel < pixels)[None, :]
    within = y.to(tl.int64) * stride_h + x.to(tl.int64) * stride_w + (channel.to(tl.int64) * stride_c)[None, :]
    tl.store(result_ptr + image * stride_u + within, total.to(result_ptr.dtype.element_ty), mask=in_image)


def image_gradient(
    grad_BPC: Tensor,
    images: Tensor,
    encoders_ETC: Tensor,
    mix: tuple[Tensor | None, ...],
    index: Tensor | None,
    constants: dict[str, Any],
) -> Tensor:
    """In the shape, dtype and layout of ``images``, whatever their number; on the current device.

    Args:
        grad_BPC: contiguous, in the dtype of the encoders. encoders_ETC: taps ordered as ``constants["PACKED"]`` says.
        mix, index: as the kernels take them, contiguous.
        constants: of the geometry, as the forward kernel takes them.
    """
    result = torch.empty_like(images)
    if result.numel() == 0:
        return result
    unique, colours, height, width = images.shape
    slots = starts = None
    if index is not None:
        taken, slots = torch.sort(index.flatten(), stable=True)
        starts = torch.searchsorted(taken, torch.arange(unique + 1, device=index.device))
    stride, padding = constants["STRIDE"], constants["PADDING"]
    cells = ((height + padding - 1) // stride + 1) * ((width + padding - 1) // stride + 1)
    block_p, block_t, block_c = (
        min(most, max(SHORTEST, triton.next_power_of_2(size)))
        for most, size in zip(
            TILE[grad_BPC.element_size()], (cells, stride * stride * colours, grad_BPC.shape[2]), strict=True
        )
    )
    tiles = triton.cdiv(cells, block_p) * triton.cdiv(stride * stride * colours, block_t)
    image_gradient_kernel[(unique * tiles,)](
        grad_BPC,
        encoders_ETC,
        *mix,
        slots,
        starts,
        result,
        *result.stride(),
        **{name: value for name, value in constants.items() if name != "CENTRE"},
        BLOCK_P=block_p,
        BLOCK_T=block_t,
        BLOCK_C=block_c,
        num_warps=4,
        num_stages=STAGES,
    )
    return result
