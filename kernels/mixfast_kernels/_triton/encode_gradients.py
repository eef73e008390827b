"""The gradients of mask_mix_encode's encoders, bias and position embedding: one pass over the result's gradient.

A split of the batch is summed in registers and written once; a second, small kernel adds the splits up in a fixed order and
writes the gradients as the parameters lie. The batch is cut into blocks, some positions of some samples, that belong to one
split each, so that a position's sum over samples stays in registers as well:

- Windows that overlap (stems): a tile is BLOCK_P neighbouring positions of one sample, whose pixels they share.
- Windows that do not (patch projections): a tile is BLOCK_P slots of a block, position by position, and with an encoder an
  input sorted by the input that they show. Then a binary mask costs one product: a block has at most M - 1 tiles of two inputs.

Dimensions: B samples, P positions, T taps, C channels of the result, E encoders, M inputs, S splits.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from mixfast_kernels._triton.encode_kernels import STAGES, fitted_tile, source, window, window_corner
from mixfast_kernels._triton.grouped_product import Blocks, block_place, order_of_blocks
from mixfast_kernels._triton.precision import OPERANDS
from mixfast_kernels._triton.zones import coverage

# Positions, most taps and most channels of a tile by the encoders' element size: 64 positions in bfloat16 spill.
TILE = {2: (32, 64, 64), 4: (32, 32, 64)}
# Of a block of patches: slots (one tile in sixteen may show two inputs), and positions, whose sums are kept.
GROUP, ROWS = 1024, 16
# Programs, whatever the device (results must not depend on it): at most, a few to each multiprocessor of a large card; and at
# least, where the batch can be split so far: a card half asleep loses more than it saves by moving fewer bytes.
PROGRAMS, LEAST_PROGRAMS = 512, 256
# Splits write sums, which are read again. Beyond the least number of programs at most this share of what the pass must read.
SHARE = 0.45
# Of the kernel that adds splits up: splits, taps and channels at a time.
ADD = (32, 8, 16)


@triton.jit(do_not_specialize=["unique", "batch", "samples", "chunks", "rows", "blocks", "each", "grid_w"])
def gradient_kernel(
    grad_ptr, images_ptr, inside_ptr, outside_ptr, zone_ptr, index_ptr, order_ptr, encoder_parts_ptr, bias_parts_ptr,
    position_parts_ptr, unique, batch, samples, chunks, rows, blocks, each, grid_w, stride_u, stride_c, stride_h, stride_w,
    P: tl.constexpr, GRID_W: tl.constexpr, C: tl.constexpr, E: tl.constexpr, M: tl.constexpr, CHANNELS: tl.constexpr,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, KERNEL: tl.constexpr, STRIDE: tl.constexpr, PADDING: tl.constexpr,
    PACKED: tl.constexpr, KIND: tl.constexpr, SCALE: tl.constexpr, CENTRE: tl.constexpr, FACTOR: tl.constexpr,
    SUMS: tl.constexpr, PRECISION: tl.constexpr, OPERAND: tl.constexpr, OVERLAP: tl.constexpr, GROUP: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """BLOCK_T taps by BLOCK_C channels of one encoder's gradient, over ``each`` blocks, and, by the programs of the first taps,
    of its bias and of the positions: an encoder adds those that no encoder before it sees.

    grad_ptr: [B, P, C]; encoder_parts_ptr: [S, E, T, C]; bias_parts_ptr: [S, E, C]; position_parts_ptr: [chunks, E, P, C].
    """
    taps: tl.constexpr = KERNEL * KERNEL * CHANNELS
    inputs: tl.constexpr = 1 if E > 1 else M  # that meet one encoder
    tiles_c, tiles_t = tl.cdiv(C, BLOCK_C), tl.cdiv(taps, BLOCK_T)
    rest = tl.program_id(0)
    out = rest % tiles_c * BLOCK_C + tl.arange(0, BLOCK_C)
    first_tap = rest // tiles_c % tiles_t * BLOCK_T
    encoder, split = rest // (tiles_c * tiles_t) % E, rest // (tiles_c * tiles_t * E)
    tap = first_tap + tl.arange(0, BLOCK_T)
    in_out = out < C
    first_input = encoder if E > 1 else 0
    row = tl.arange(0, ROWS)
    total = tl.zeros((BLOCK_T, BLOCK_C), SUMS)
    bias = tl.zeros((BLOCK_C,), SUMS)
    for block in range(split * each, tl.minimum(split * each + each, blocks)):
        chunk, first_position = block % chunks, block // chunks * rows
        positions = tl.zeros((ROWS, BLOCK_C), SUMS)
        if OVERLAP:
            tiles = tl.minimum(samples, batch - chunk * samples)
        else:
            tiles = tl.cdiv(rows * samples, BLOCK_P)
        for tile in range(0, tiles):
            if OVERLAP:
                sample, position = chunk * samples + tile, first_position + tl.arange(0, BLOCK_P)
                exists = position < P
            elif order_ptr is None:
                slot = tile * BLOCK_P + tl.arange(0, BLOCK_P)
                sample, position, exists = block_place(block, slot, batch, samples, chunks, rows, P)
            else:
                slot = tile * BLOCK_P + tl.arange(0, BLOCK_P)
                place = tl.load(order_ptr + block * GROUP + slot, mask=slot < GROUP, other=-1)
                exists = place >= 0
                place = tl.where(exists, place, 0)
                sample, position = place // P, place % P
            top, left = window_corner(position, grid_w, STRIDE, PADDING)
            share = coverage(zone_ptr, sample, position, exists, P, GRID_W, KIND)
            weights = tl.zeros((BLOCK_P,), SUMS)
            shown = tl.zeros((BLOCK_P,), tl.int1)
            for m in tl.static_range(inputs):
                weight, image = source(
                    inside_ptr, outside_ptr, index_ptr, sample, share, exists, first_input + m, M, SCALE, SUMS
                )
                weights += weight
                shown = shown | (weight != 0)
            # Positions whose sum this program adds to: each belongs to one program of a tile's.
            mine = tl.zeros((BLOCK_P,), tl.int1)
            if position_parts_ptr is not None:
                if first_tap == 0:
                    first_seen = tl.zeros((BLOCK_P,), tl.int32)
                    for m in tl.static_range(E - 1, 0, -1):
                        weight, image = source(
                            inside_ptr, outside_ptr, index_ptr, sample, share, exists, m, M, SCALE, SUMS
                        )
                        first_seen = tl.where(weight != 0, m, first_seen)
                    if E > 1:
                        weight, image = source(
                            inside_ptr, outside_ptr, index_ptr, sample, share, exists, 0, M, SCALE, SUMS
                        )
                        first_seen = tl.where(weight != 0, 0, first_seen)
                    mine = exists & (first_seen == encoder)
            if tl.max((shown | mine).to(tl.int32), 0) != 0:
                read = (shown | mine)[:, None] & in_out[None, :]
                grad_at = (sample.to(tl.int64) * P + position)[:, None] * C + out[None, :]
                grad = tl.load(grad_ptr + grad_at, mask=read, other=0)
                if position_parts_ptr is not None:
                    if OVERLAP:
                        positions += tl.where(mine[:, None], grad, 0.0).to(SUMS)
                    else:
                        at = position - first_position
                        low, high = tl.min(tl.where(mine, at, ROWS), 0), tl.max(tl.where(mine, at, -1), 0)
                        for r in range(low, high + 1):
                            of_row = tl.sum(tl.where((mine & (at == r))[:, None], grad.to(SUMS), 0.0), 0)
                            positions += tl.where((row == r)[:, None], of_row[None, :], 0.0)
                if tl.max(shown.to(tl.int32), 0) != 0:
                    windows = tl.zeros((BLOCK_P, BLOCK_T), SUMS)
                    for m in tl.static_range(inputs):
                        weight, image = source(
                            inside_ptr, outside_ptr, index_ptr, sample, share, exists, first_input + m, M, SCALE, SUMS
                        )
                        windows += window(
                            images_ptr, unique, stride_u, stride_c, stride_h, stride_w, image, weight, top, left, tap,
                            CHANNELS, HEIGHT, WIDTH, KERNEL, PADDING, PACKED, CENTRE, FACTOR, SUMS,
                        )  # fmt: skip
                    # Where the inputs show nothing, an infinite gradient must not meet their 0.
                    grad = tl.where(shown[:, None], grad, 0.0).to(OPERAND)
                    windows = tl.trans(windows.to(OPERAND))
                    total = tl.dot(windows, grad, total, input_precision=PRECISION, out_dtype=SUMS)
                    if bias_parts_ptr is not None:
                        if first_tap == 0:
                            bias += tl.sum(weights[:, None] * grad.to(SUMS), 0)
        if position_parts_ptr is not None:
            kept = (row < rows) & (first_position + row < P) & (first_tap == 0)
            position_at = ((chunk * E + encoder).to(tl.int64) * P + first_position + row)[:, None] * C + out[None, :]
            tl.store(position_parts_ptr + position_at, positions, mask=kept[:, None] & in_out[None, :])
    part = (split * E + encoder).to(tl.int64)
    in_encoder = (tap < taps)[:, None] & in_out[None, :]
    tl.store(encoder_parts_ptr + (part * taps + tap)[:, None] * C + out[None, :], total, mask=in_encoder)
    if bias_parts_ptr is not None:
        tl.store(bias_parts_ptr + part * C + out, bias, mask=in_out & (first_tap == 0))


@triton.jit(do_not_specialize=["splits"])
def add_kernel(
    parts_ptr, result_ptr, splits, T, C, E: tl.constexpr, AREA: tl.constexpr, COLOURS: tl.constexpr, SUMS: tl.constexpr,
    BLOCK_S: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """result[e, c, t] = sum of parts[:, e, t, c]: [S, E, T, C] to [E, C, T].

    COLOURS > 0: taps of the parts are ordered (area, colour), those of the result (colour, area).
    """
    tiles_c, tiles_t = tl.cdiv(C, BLOCK_C), tl.cdiv(T, BLOCK_T)
    rest = tl.program_id(0)
    channel = rest % tiles_c * BLOCK_C + tl.arange(0, BLOCK_C)
    tap = rest // tiles_c % tiles_t * BLOCK_T + tl.arange(0, BLOCK_T)
    encoder = (rest // (tiles_c * tiles_t)).to(tl.int64)
    in_tile = (tap < T)[:, None] & (channel < C)[None, :]
    from_tap = tap
    if COLOURS > 0:
        from_tap = tap % AREA * COLOURS + tap // AREA
    part = tl.arange(0, BLOCK_S)
    tile_ptr = parts_ptr + (encoder * T + from_tap)[:, None] * C + channel[None, :]
    sums = tl.zeros((BLOCK_S, BLOCK_T, BLOCK_C), SUMS)
    for start in range(0, splits, BLOCK_S):
        present = (start + part < splits)[:, None, None] & in_tile[None, :, :]
        part_ptr = tile_ptr[None, :, :] + (start + part).to(tl.int64)[:, None, None] * E * T * C
        sums += tl.load(part_ptr, mask=present, other=0)
    target_ptr = result_ptr + (encoder * C + channel)[None, :] * T + tap[:, None]
    tl.store(target_ptr, tl.sum(sums, 0).to(result_ptr.dtype.element_ty), mask=in_tile)


def parameter_gradients(
    grad_BPC: Tensor,
    pixels: Tensor,
    weight: Tensor,
    mix: tuple[Tensor | None, ...],
    index: Tensor | None,
    bias: Tensor | None,
    position: Tensor | None,
    constants: dict[str, Any],
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The gradients of ``weight``, ``bias`` and ``position``, None of those that are not there; on the current device.

    Args:
        grad_BPC: contiguous. pixels: ``[U, c, H, W]``. mix, index: as the kernels take them, contiguous.
        constants: of the geometry, as the forward kernel takes them.
    """
    batch, positions, channels = grad_BPC.shape
    encoders, taps = weight.shape[0], weight[0, 0].numel()
    overlap = not (constants["STRIDE"] == constants["KERNEL"] and constants["PADDING"] == 0)
    block_p, block_t, block_c = fitted_tile(TILE, weight)
    sums = torch.promote_types(weight.dtype, torch.float32)
    tiles = encoders * triton.cdiv(taps, block_t) * triton.cdiv(channels, block_c)
    # Bytes of the images that the batch takes, and what splits may move.
    seen = min(pixels.shape[0], batch * constants["M"]) * pixels[:1].numel() * pixels.element_size()
    budget = SHARE * (grad_BPC.numel() * grad_BPC.element_size() + seen) / (2 * encoders * channels * sums.itemsize)
    most = max(1, triton.cdiv(LEAST_PROGRAMS, tiles), min(PROGRAMS // tiles, int(budget / taps)))
    most_chunks = most if position is None else min(most, max(1, int(budget / positions)))
    blocks = _stem_blocks(batch, positions, block_p, most_chunks) if overlap else _patch_blocks(batch, positions)
    each = triton.cdiv(blocks.count, most)
    splits = triton.cdiv(blocks.count, each)
    encoder_parts = weight.new_empty(splits, encoders, taps, channels, dtype=sums)
    bias_parts = position_parts = order = None
    if bias is not None:
        bias_parts = weight.new_empty(splits, encoders, 1, channels, dtype=sums)
    if position is not None:
        position_parts = weight.new_empty(blocks.chunks * encoders, 1, positions, channels, dtype=sums)
    if encoders > 1 and not overlap:
        names = {"N": positions, "WIDTH": constants["GRID_W"], **{key: constants[key] for key in ("M", "KIND", "SUMS")}}
        order = order_of_blocks(grad_BPC, mix, names, blocks, GROUP)
    gradient_kernel[(tiles * splits,)](
        grad_BPC,
        pixels,
        *mix,
        index,
        order,
        encoder_parts,
        bias_parts,
        position_parts,
        pixels.shape[0],
        batch,
        blocks.samples,
        blocks.chunks,
        blocks.rows,
        blocks.count,
        each,
        constants["GRID_W"],
        *pixels.stride(),
        **constants,
        OPERAND=OPERANDS[weight.dtype],
        OVERLAP=overlap,
        GROUP=GROUP,
        ROWS=block_p if overlap else ROWS,
        BLOCK_P=block_p,
        BLOCK_T=block_t,
        BLOCK_C=block_c,
        num_warps=8 if block_t * block_c * weight.element_size() >= 8192 else 4,
        num_stages=STAGES,
        # Left alone, ptxas spills some stems' into fewer registers, for one block more on a multiprocessor.
        maxnreg=224,
    )
    colours = weight.shape[2] if constants["PACKED"] else 0
    return (
        _added(encoder_parts, weight, colours),
        None if bias is None else _added(bias_parts, bias),
        None if position is None else _added(position_parts, position),
    )


def _patch_blocks(batch: int, positions: int) -> Blocks:
    samples = min(batch, GROUP)
    rows, chunks = min(ROWS, GROUP // samples, positions), triton.cdiv(batch, samples)
    return Blocks(rows, samples, chunks, triton.cdiv(positions, rows) * chunks)


def _stem_blocks(batch: int, positions: int, block_p: int, most: int) -> Blocks:
    """Blocks of a tile's positions; as many chunks of samples as make ``most`` blocks."""
    tiles = triton.cdiv(positions, block_p)
    samples = triton.cdiv(batch, max(1, min(batch, most // tiles)))
    chunks = triton.cdiv(batch, samples)
    return Blocks(block_p, samples, chunks, tiles * chunks)


def _added(parts_SETC: Tensor, parameter: Tensor, colours: int = 0) -> Tensor:
    """The sum over splits, with taps last, in the dtype and shape of the parameter, contiguous."""
    splits, encoders, taps, channels = parts_SETC.shape
    result = parameter.new_empty(parameter.shape)
    block_s, block_t, block_c = ADD
    block_t, block_c = min(block_t, triton.next_power_of_2(taps)), min(block_c, triton.next_power_of_2(channels))
    add_kernel[(encoders * triton.cdiv(taps, block_t) * triton.cdiv(channels, block_c),)](
        parts_SETC,
        result,
        splits,
        taps,
        channels,
        E=encoders,
        AREA=taps // max(1, colours),
        COLOURS=colours,
        SUMS=OPERANDS[parts_SETC.dtype],
        BLOCK_S=block_s,  # whatever the splits: another batch size compiles nothing new
        BLOCK_T=block_t,
        BLOCK_C=block_c,
    )
    return result
