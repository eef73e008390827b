"""mask_mix_encode forward: a product of pixel windows, taken from the images as they are read, with the encoders.

A tile is ``[position, tap]``: its pixels are gathered by ``index``, normalised and weighed by the zone in registers,
rounded once to the encoders' dtype, and multiplied. A window's border is 0 after normalisation. A pixel under no
visible window is not read. Encoders of their own take one product for each input that some position of the tile sees; a
shared encoder meets the sum of the weighed windows, one product whatever the mix.

Dimensions: B samples, P positions (H' * W'), T taps (k * k * c), C channels of the result, E encoders, M inputs.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from mixfast_kernels._triton.interpreter import repair
from mixfast_kernels._triton.pixels import of_channel
from mixfast_kernels._triton.zones import coverage

repair()

# The next tile of encoders is on its way while one is multiplied.
STAGES = 2
# The operands of tl.dot are at least this long.
SHORTEST = 16


def fitted_tile(table: dict[int, tuple[int, int, int]], weight: Tensor) -> tuple[int, int, int]:
    """Positions, taps and channels of a tile, as few as the encoders need; ``table``: by the encoders' element size."""
    positions, taps, channels = table[weight.element_size()]
    has_taps, has_channels = triton.next_power_of_2(weight[0, 0].numel()), triton.next_power_of_2(weight.shape[1])
    return positions, min(taps, max(SHORTEST, has_taps)), min(channels, max(SHORTEST, has_channels))


@triton.jit
def source(
    inside_ptr, outside_ptr, index_ptr, sample, share, exists, m,
    M: tl.constexpr, SCALE: tl.constexpr, SUMS: tl.constexpr,
):  # fmt: skip
    """What input ``m`` weighs at each position, and the image it is; where not ``exists`` it weighs 0."""
    slot = sample.to(tl.int64) * M + m
    inside, outside = tl.load(inside_ptr + slot), tl.load(outside_ptr + slot)
    weight = (outside + share.to(inside.dtype) * (inside - outside)).to(SUMS) * SCALE
    image = sample.to(tl.int64)
    if index_ptr is not None:
        image = tl.load(index_ptr + slot)
    # One image a position, also where ``sample`` is a scalar: the interpreter mixes up comparisons of scalars.
    return tl.where(exists, weight, 0.0).to(SUMS), image + tl.zeros(weight.shape, tl.int64)


@triton.jit
def window(
    images_ptr, unique, stride_u, stride_c, stride_h, stride_w, image, weight, top, left, tap,
    CHANNELS: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, KERNEL: tl.constexpr, PADDING: tl.constexpr,
    PACKED: tl.constexpr, CENTRE: tl.constexpr, FACTOR: tl.constexpr, SUMS: tl.constexpr,
):  # fmt: skip
    """``[position, tap]``: the weighed, normalised pixels; 0 in the border, under weight 0, and of an image that is none.

    Taps are ordered (row, column, channel) where PACKED, a row of a window then being one run of memory; otherwise
    (channel, row, column).
    """
    if PACKED:
        channel, column, row = tap % CHANNELS, tap // CHANNELS % KERNEL, tap // (CHANNELS * KERNEL)
        within = row.to(tl.int64) * stride_h + tap % (CHANNELS * KERNEL)
    else:
        column, row, channel = tap % KERNEL, tap // KERNEL % KERNEL, tap // (KERNEL * KERNEL)
        within = channel.to(tl.int64) * stride_c + row.to(tl.int64) * stride_h + column * stride_w
    read = ((weight != 0) & (image >= 0) & (image < unique))[:, None] & (tap < KERNEL * KERNEL * CHANNELS)[None, :]
    if PADDING > 0:
        y, x = top[:, None] + row[None, :], left[:, None] + column[None, :]
        read = read & (y >= 0) & (y < HEIGHT) & (x >= 0) & (x < WIDTH)
    corner = image * stride_u + top.to(tl.int64) * stride_h + left.to(tl.int64) * stride_w
    pixels = tl.load(images_ptr + corner[:, None] + within[None, :], mask=read, other=0).to(SUMS)
    if FACTOR is not None:
        centre = of_channel(CENTRE, channel, CHANNELS, SUMS)
        factor = of_channel(FACTOR, channel, CHANNELS, SUMS)
        pixels = tl.where(read, (pixels - centre[None, :]) * factor[None, :], 0.0)
    return pixels * weight[:, None]


@triton.jit
def window_corner(position, grid_w, STRIDE: tl.constexpr, PADDING: tl.constexpr):
    """Row and column of the image where the windows of these positions begin.

    On a small grid ``grid_w`` must not be known when the kernel is compiled: LLVM would pack such places in 16 bits, two to
    a register, and ptxas of CUDA 12.8 loses the padding when it computes them a second time (seen on an H200).
    """
    row = position // grid_w
    return row * STRIDE - PADDING, (position - row * grid_w) * STRIDE - PADDING


@triton.jit(do_not_specialize=["unique", "slots", "grid_w"])
def encode_kernel(
    images_ptr, encoders_ptr, inside_ptr, outside_ptr, zone_ptr, index_ptr, bias_ptr, position_ptr, order_ptr, result_ptr,
    unique, slots, grid_w, stride_u, stride_c, stride_h, stride_w,
    P: tl.constexpr, GRID_W: tl.constexpr, C: tl.constexpr, E: tl.constexpr, M: tl.constexpr, CHANNELS: tl.constexpr,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, KERNEL: tl.constexpr, STRIDE: tl.constexpr, PADDING: tl.constexpr,
    PACKED: tl.constexpr, KIND: tl.constexpr, SCALE: tl.constexpr, CENTRE: tl.constexpr, FACTOR: tl.constexpr,
    SUMS: tl.constexpr, PRECISION: tl.constexpr, BY_SAMPLE: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """BLOCK_P positions by BLOCK_C channels; encoders_ptr: [E, T, C].

    BY_SAMPLE: the positions of a tile lie in one sample. Otherwise they are a run of ``slots`` places (sample * P +
    position), or of those that ``order`` holds, -1 being none.
    """
    taps: tl.constexpr = KERNEL * KERNEL * CHANNELS
    inputs: tl.constexpr = 1 if E > 1 else M  # that meet one encoder
    tiles = tl.cdiv(C, BLOCK_C)
    out = tl.program_id(0) % tiles * BLOCK_C + tl.arange(0, BLOCK_C)
    in_out = out < C
    tile = tl.program_id(0) // tiles
    if BY_SAMPLE:
        tiles_p: tl.constexpr = (P + BLOCK_P - 1) // BLOCK_P
        sample, position = tile // tiles_p, tile % tiles_p * BLOCK_P + tl.arange(0, BLOCK_P)
        exists = position < P
        place = sample * P + position
    else:
        place = tile * BLOCK_P + tl.arange(0, BLOCK_P)
        exists = place < slots
        if order_ptr is not None:
            place = tl.load(order_ptr + place, mask=exists, other=-1)
            exists = place >= 0
        place = tl.where(exists, place, 0)
        sample, position = place // P, place % P
    top, left = window_corner(position, GRID_W if BY_SAMPLE else grid_w, STRIDE, PADDING)
    share = coverage(zone_ptr, sample, position, exists, P, GRID_W, KIND)
    total = tl.zeros((BLOCK_P, BLOCK_C), SUMS)
    for e in tl.static_range(E):
        seen = 1
        if E > 1:
            weight, _ = source(inside_ptr, outside_ptr, index_ptr, sample, share, exists, e, M, SCALE, SUMS)
            seen = tl.max((weight != 0).to(tl.int32), 0)
        for start in range(0, seen * taps, BLOCK_T):
            tap = start + tl.arange(0, BLOCK_T)
            windows = tl.zeros((BLOCK_P, BLOCK_T), SUMS)
            for m in tl.static_range(e, e + inputs):
                weight, image = source(inside_ptr, outside_ptr, index_ptr, sample, share, exists, m, M, SCALE, SUMS)
                windows += window(
                    images_ptr, unique, stride_u, stride_c, stride_h, stride_w, image, weight, top, left, tap,
                    CHANNELS, HEIGHT, WIDTH, KERNEL, PADDING, PACKED, CENTRE, FACTOR, SUMS,
                )  # fmt: skip
            encoder_ptr = encoders_ptr + e * taps * C + tap[:, None] * C + out[None, :]
            encoder = tl.load(encoder_ptr, mask=(tap < taps)[:, None] & in_out[None, :], other=0)
            total = tl.dot(windows.to(encoder.dtype), encoder, total, input_precision=PRECISION, out_dtype=SUMS)
    if bias_ptr is not None:
        for m in tl.static_range(M):
            weight, _ = source(inside_ptr, outside_ptr, index_ptr, sample, share, exists, m, M, SCALE, SUMS)
            bias = tl.load(bias_ptr + (m if E > 1 else 0) * C + out, mask=in_out, other=0).to(SUMS)
            total += tl.where((weight != 0)[:, None], weight[:, None] * bias[None, :], 0.0)
    in_tile = exists[:, None] & in_out[None, :]
    if position_ptr is not None:
        total += tl.load(position_ptr + out[None, :] * P + position[:, None], mask=in_tile, other=0).to(SUMS)
    target_ptr = result_ptr + place.to(tl.int64)[:, None] * C + out[None, :]
    tl.store(target_ptr, total.to(result_ptr.dtype.element_ty), mask=in_tile)
