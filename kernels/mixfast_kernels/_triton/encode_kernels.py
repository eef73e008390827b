"""The kernels of mask_mix_encode: a product of pixel windows, taken from the images as they are read, with the encoders.

A tile is ``[position, tap]``: its pixels are gathered by ``index``, normalised and weighed by the zone in registers,
rounded once to the encoders' dtype, and multiplied. A window's border is 0 after normalisation. A pixel under no
visible window is not read. Encoders of their own take one product for each input that some position of the tile sees; a
shared encoder meets the sum of the weighed windows, one product whatever the mix.

Dimensions: B samples, P positions (H' * W'), T taps (k * k * c), C channels of the result, E encoders, M inputs.
"""

from __future__ import annotations

import triton
import triton.language as tl

from mixfast_kernels._triton.interpreter import repair
from mixfast_kernels._triton.pixels import of_channel
from mixfast_kernels._triton.zones import coverage

repair()


@triton.jit
def _source(
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
def _window(
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


@triton.jit(do_not_specialize=["unique", "slots"])
def encode_kernel(
    images_ptr, encoders_ptr, inside_ptr, outside_ptr, zone_ptr, index_ptr, bias_ptr, position_ptr, order_ptr, result_ptr,
    unique, slots, stride_u, stride_c, stride_h, stride_w,
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
    top, left = position // GRID_W * STRIDE - PADDING, position % GRID_W * STRIDE - PADDING
    share = coverage(zone_ptr, sample, position, exists, P, GRID_W, KIND)
    total = tl.zeros((BLOCK_P, BLOCK_C), SUMS)
    for e in tl.static_range(E):
        seen = 1
        if E > 1:
            weight, _ = _source(inside_ptr, outside_ptr, index_ptr, sample, share, exists, e, M, SCALE, SUMS)
            seen = tl.max((weight != 0).to(tl.int32), 0)
        for start in range(0, seen * taps, BLOCK_T):
            tap = start + tl.arange(0, BLOCK_T)
            windows = tl.zeros((BLOCK_P, BLOCK_T), SUMS)
            for m in tl.static_range(e, e + inputs):
                weight, image = _source(inside_ptr, outside_ptr, index_ptr, sample, share, exists, m, M, SCALE, SUMS)
                windows += _window(
                    images_ptr, unique, stride_u, stride_c, stride_h, stride_w, image, weight, top, left, tap,
                    CHANNELS, HEIGHT, WIDTH, KERNEL, PADDING, PACKED, CENTRE, FACTOR, SUMS,
                )  # fmt: skip
            encoder_ptr = encoders_ptr + e * taps * C + tap[:, None] * C + out[None, :]
            encoder = tl.load(encoder_ptr, mask=(tap < taps)[:, None] & in_out[None, :], other=0)
            total = tl.dot(windows.to(encoder.dtype), encoder, total, input_precision=PRECISION, out_dtype=SUMS)
    if bias_ptr is not None:
        for m in tl.static_range(M):
            weight, _ = _source(inside_ptr, outside_ptr, index_ptr, sample, share, exists, m, M, SCALE, SUMS)
            bias = tl.load(bias_ptr + (m if E > 1 else 0) * C + out, mask=in_out, other=0).to(SUMS)
            total += tl.where((weight != 0)[:, None], weight[:, None] * bias[None, :], 0.0)
    in_tile = exists[:, None] & in_out[None, :]
    if position_ptr is not None:
        total += tl.load(position_ptr + out[None, :] * P + position[:, None], mask=in_tile, other=0).to(SUMS)
    target_ptr = result_ptr + place.to(tl.int64)[:, None] * C + out[None, :]
    tl.store(target_ptr, total.to(result_ptr.dtype.element_ty), mask=in_tile)


@triton.jit(do_not_specialize=["unique", "batch", "splits"])
def gradient_kernel(
    grad_ptr, images_ptr, inside_ptr, outside_ptr, zone_ptr, index_ptr, encoder_parts_ptr, bias_parts_ptr,
    position_parts_ptr, unique, batch, splits, stride_u, stride_c, stride_h, stride_w,
    P: tl.constexpr, GRID_W: tl.constexpr, C: tl.constexpr, E: tl.constexpr, M: tl.constexpr, CHANNELS: tl.constexpr,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, KERNEL: tl.constexpr, STRIDE: tl.constexpr, PADDING: tl.constexpr,
    PACKED: tl.constexpr, KIND: tl.constexpr, SCALE: tl.constexpr, CENTRE: tl.constexpr, FACTOR: tl.constexpr,
    SUMS: tl.constexpr, PRECISION: tl.constexpr, OPERAND: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Sums over BLOCK_P positions of the grid in samples split, split + splits, ...: BLOCK_T taps by BLOCK_C channels of
    one encoder's gradient, and, by the programs of the first taps, of its bias and (first encoder) of the positions.

    grad_ptr: [B, P, C]; encoder_parts_ptr: [splits, tiles of P, E, T, C]; bias_parts_ptr: [splits, tiles of P, E, C];
    position_parts_ptr: [splits, P, C].
    """
    taps: tl.constexpr = KERNEL * KERNEL * CHANNELS
    inputs: tl.constexpr = 1 if E > 1 else M
    tiles_c, tiles_t, tiles_p = tl.cdiv(C, BLOCK_C), tl.cdiv(taps, BLOCK_T), tl.cdiv(P, BLOCK_P)
    rest = tl.program_id(0)
    out = rest % tiles_c * BLOCK_C + tl.arange(0, BLOCK_C)
    first_tap = rest // tiles_c % tiles_t * BLOCK_T
    rest = rest // (tiles_c * tiles_t)
    encoder, tile_p, split = rest % E, rest // E % tiles_p, rest // (E * tiles_p)
    tap = first_tap + tl.arange(0, BLOCK_T)
    position = tile_p * BLOCK_P + tl.arange(0, BLOCK_P)
    exists, in_out = position < P, out < C
    top, left = position // GRID_W * STRIDE - PADDING, position % GRID_W * STRIDE - PADDING
    first_input = encoder if E > 1 else 0
    whole = False  # whether this program reads all of the gradient, for the positions, or what its inputs show
    if position_parts_ptr is not None:
        whole = (first_tap == 0) & (encoder == 0)
    total = tl.zeros((BLOCK_T, BLOCK_C), SUMS)
    bias = tl.zeros((BLOCK_C,), SUMS)
    positions = tl.zeros((BLOCK_P, BLOCK_C), SUMS)
    for step in range(0, tl.cdiv(batch - split, splits)):
        sample = split + step * splits
        share = coverage(zone_ptr, sample, position, exists, P, GRID_W, KIND)
        tile = tl.zeros((BLOCK_P, BLOCK_T), SUMS)
        weights = tl.zeros((BLOCK_P,), SUMS)
        shown = tl.zeros((BLOCK_P,), tl.int1)
        for m in tl.static_range(inputs):
            weight, image = _source(
                inside_ptr, outside_ptr, index_ptr, sample, share, exists, first_input + m, M, SCALE, SUMS
            )
            tile += _window(
                images_ptr, unique, stride_u, stride_c, stride_h, stride_w, image, weight, top, left, tap,
                CHANNELS, HEIGHT, WIDTH, KERNEL, PADDING, PACKED, CENTRE, FACTOR, SUMS,
            )  # fmt: skip
            weights += weight
            shown = shown | (weight != 0)
        read = (exists & (shown | whole))[:, None] & in_out[None, :]
        grad_at = (sample.to(tl.int64) * P + position)[:, None] * C + out[None, :]
        grad = tl.load(grad_ptr + grad_at, mask=read, other=0)
        if position_parts_ptr is not None:
            positions += grad.to(SUMS)
        if tl.max(shown.to(tl.int32), 0) != 0:
            # Where the inputs show nothing, an infinite gradient must not meet their 0.
            grad = tl.where(shown[:, None], grad, 0.0).to(OPERAND)
            total = tl.dot(tl.trans(tile.to(OPERAND)), grad, total, input_precision=PRECISION, out_dtype=SUMS)
            if bias_parts_ptr is not None:
                bias += tl.sum(weights[:, None] * grad.to(SUMS), 0)
    part = ((split * tiles_p + tile_p) * E + encoder).to(tl.int64)
    in_encoder = (tap < taps)[:, None] & in_out[None, :]
    tl.store(encoder_parts_ptr + (part * taps + tap)[:, None] * C + out[None, :], total, mask=in_encoder)
    if bias_parts_ptr is not None:
        tl.store(bias_parts_ptr + part * C + out, bias, mask=in_out & (first_tap == 0))
    if position_parts_ptr is not None:
        position_at = (split.to(tl.int64) * P + position)[:, None] * C + out[None, :]
        tl.store(position_parts_ptr + position_at, positions, mask=exists[:, None] & in_out[None, :] & whole)
