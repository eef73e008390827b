"""A product of tokens with the matrix of the source that each of them shows: tokens put in order, then multiplied by tiles.

The order is by the source that weighs most, within groups of GROUP tokens: one small kernel, no sort over the batch and
nothing for the host to wait for. A tile of the product takes its tokens through the order and leaves out each source that
none of them weighs. With a binary mask that is one product a token but for the few tiles of a group in which one source
ends and the next begins; any other weights come out right too, by more products. The matrices' gradient sums over the
tokens of its source in splits, whose parts are then added in a fixed order.

Dimensions: B samples, N tokens, D width, M sources; a slot is a place in the order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from mixfast_kernels._triton.interpreter import repair
from mixfast_kernels._triton.precision import products_of, sums_of
from mixfast_kernels._triton.zones import coverage

repair()

# Two tiles in each group of 2048 slots at most show two sources (for M = 2): an eighth more products than tokens need
# with tiles of 128 or segments of 256.
GROUP = 2048
SEGMENT = 256
ORDER_WARPS = 16  # few programs, each waiting for gathered weights: many threads hide that
# By element size: what fits 72 KiB of shared memory (an RTX card has 99), with two sums a result and without spills.
PRODUCT = {
    2: {"BLOCK_T": 128, "BLOCK_O": 64, "BLOCK_I": 64, "num_warps": 8, "num_stages": 3},
    4: {"BLOCK_T": 64, "BLOCK_O": 64, "BLOCK_I": 16, "num_warps": 8, "num_stages": 3},
    8: {"BLOCK_T": 64, "BLOCK_O": 64, "BLOCK_I": 16, "num_warps": 8, "num_stages": 3},
}
WEIGHT_GRADIENT = {
    2: {"BLOCK_T": 64, "BLOCK_O": 64, "BLOCK_I": 64, "num_warps": 4, "num_stages": 3},
    4: {"BLOCK_T": 32, "BLOCK_O": 64, "BLOCK_I": 64, "num_warps": 4, "num_stages": 3},
    8: {"BLOCK_T": 16, "BLOCK_O": 64, "BLOCK_I": 64, "num_warps": 4, "num_stages": 3},
}
# Programs that the splits of the matrices' gradient are to make: two for each of a large card's multiprocessors. Every
# split more is another [M, D, D] to write and to add, so wide tokens, whose tiles are many, take few.
WEIGHT_GRADIENT_PROGRAMS = 264


@dataclass(frozen=True)
class Blocks:
    """A batch in blocks of ``rows`` tokens of each of ``samples`` samples; ``chunks`` of samples make the batch."""

    rows: int
    samples: int
    chunks: int
    count: int


@triton.jit
def block_place(block, slot, batch, samples, chunks, rows, N: tl.constexpr):
    """Sample and token of a slot of a block, and whether there is one: ``rows`` tokens of each of ``samples`` samples, token
    by token. Blocks take the samples in ``chunks``, then go on to the next tokens; slots without a token are the last ones.
    """
    token = block // chunks * rows + slot // samples
    sample = block % chunks * samples + slot % samples
    exists = (slot < rows * samples) & (token < N) & (sample < batch)
    return tl.where(exists, sample, 0), tl.where(exists, token, 0), exists


@triton.jit(do_not_specialize=["tokens", "slots", "batch", "samples", "chunks", "rows"])
def _order_kernel(
    inside_ptr, outside_ptr, zone_ptr, order_ptr, weights_ptr, tokens, slots, batch, samples, chunks, rows,
    N: tl.constexpr, WIDTH: tl.constexpr, M: tl.constexpr, KIND: tl.constexpr, SUMS: tl.constexpr, GROUP: tl.constexpr,
    BLOCKS: tl.constexpr,
):  # fmt: skip
    """A group's tokens by their heaviest source, otherwise as they come; slots without a token hold -1 and weigh nothing.

    order_ptr: [slots], the tokens; weights_ptr: [M, slots], what each source weighs there. A group is a run of tokens, or,
    with BLOCKS, a block of ``block_place``.
    """
    first = tl.program_id(0) * GROUP
    slot = first + tl.arange(0, GROUP)
    if BLOCKS:
        sample, place, exists = block_place(tl.program_id(0), tl.arange(0, GROUP), batch, samples, chunks, rows, N)
        token = sample * N + place
    else:
        exists = slot < tokens
        token = tl.where(exists, slot, 0)
        sample, place = token // N, token % N
    share = coverage(zone_ptr, sample, place, exists, N, WIDTH, KIND).to(SUMS)
    weight_at = sample.to(tl.int64) * M
    heaviest = tl.full((GROUP,), float("-inf"), SUMS)
    source = tl.zeros((GROUP,), tl.int32)
    for m in tl.static_range(M):
        inside, outside = tl.load(inside_ptr + weight_at + m).to(SUMS), tl.load(outside_ptr + weight_at + m).to(SUMS)
        weight = share * inside + (1 - share) * outside
        source = tl.where(weight > heaviest, m, source)
        heaviest = tl.maximum(weight, heaviest)
    # A slot past the last token is past the last of its group, and stays where it is.
    target = slot
    before = 0
    for m in tl.static_range(M):
        member = exists & (source == m)
        target = tl.where(member, first + before + tl.cumsum(member.to(tl.int32), 0) - 1, target)
        before += tl.sum(member.to(tl.int32), 0)
    tl.store(order_ptr + target, tl.where(exists, token, -1))
    if weights_ptr is not None:
        for m in tl.static_range(M):
            inside, outside = (
                tl.load(inside_ptr + weight_at + m).to(SUMS),
                tl.load(outside_ptr + weight_at + m).to(SUMS),
            )
            weight = share * inside + (1 - share) * outside
            tl.store(weights_ptr + m * slots + target, tl.where(exists, weight, 0.0))


@triton.jit
def _row_pointers(pointer, token, stride_b, stride_n, N: tl.constexpr):
    """Where the rows of these tokens begin; a slot without a token reads the first one's, masked or weighed with 0."""
    token = tl.maximum(token, 0)
    return pointer + (token // N).to(tl.int64) * stride_b + (token % N).to(tl.int64) * stride_n


@triton.jit(do_not_specialize=["slots"])
def _product_kernel(
    rows_ptr, matrices_ptr, bias_ptr, order_ptr, weights_ptr, result_ptr, slots, stride_b, stride_n,
    stride_m, stride_o, stride_i, N: tl.constexpr, D: tl.constexpr, M: tl.constexpr, BIAS: tl.constexpr,
    SUMS: tl.constexpr, PRECISION: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_I: tl.constexpr,
):  # fmt: skip
    """result[t] = rows[t] + sum over m of weights[m, t] * (rows[t] @ matrices[m]^T + bias[m]), for BLOCK_T slots."""
    columns = tl.cdiv(D, BLOCK_O)
    slot = tl.program_id(0) // columns * BLOCK_T + tl.arange(0, BLOCK_T)
    column = tl.program_id(0) % columns * BLOCK_O + tl.arange(0, BLOCK_O)
    token = tl.load(order_ptr + slot)
    exists, in_columns = token >= 0, column < D
    row_ptr = _row_pointers(rows_ptr, token, stride_b, stride_n, N)
    total = tl.zeros((BLOCK_T, BLOCK_O), SUMS)
    for m in tl.static_range(M):
        weight = tl.load(weights_ptr + m * slots + slot)
        seen = tl.max((weight != 0).to(tl.int32), 0)
        product = tl.zeros((BLOCK_T, BLOCK_O), SUMS)
        for start in range(0, seen * D, BLOCK_I):
            inner = start + tl.arange(0, BLOCK_I)
            in_inner = inner < D
            rows = tl.load(row_ptr[:, None] + inner[None, :], mask=exists[:, None] & in_inner[None, :], other=0)
            matrix_ptr = matrices_ptr + m * stride_m + inner[:, None] * stride_i + column[None, :] * stride_o
            matrix = tl.load(matrix_ptr, mask=in_inner[:, None] & in_columns[None, :], other=0)
            product = tl.dot(rows, matrix, product, input_precision=PRECISION, out_dtype=SUMS)
        if BIAS:
            product += tl.load(bias_ptr + m * D + column, mask=in_columns, other=0).to(SUMS)[None, :]
        # A source that is not seen adds no 0 * bias, which an infinite bias would turn into NaN.
        total += tl.where((weight != 0)[:, None], weight[:, None] * product, 0.0)
    in_tile = exists[:, None] & in_columns[None, :]
    total += tl.load(row_ptr[:, None] + column[None, :], mask=in_tile, other=0).to(SUMS)
    target_ptr = result_ptr + tl.maximum(token, 0).to(tl.int64)[:, None] * D + column[None, :]
    tl.store(target_ptr, total.to(result_ptr.dtype.element_ty), mask=in_tile)


@triton.jit(do_not_specialize=["slots", "segments", "splits"])
def _weight_gradient_kernel(
    grad_ptr, tokens_ptr, order_ptr, weights_ptr, parts_ptr, slots, segments, splits,
    grad_stride_b, grad_stride_n, stride_b, stride_n, N: tl.constexpr, D: tl.constexpr, M: tl.constexpr,
    SUMS: tl.constexpr, PRECISION: tl.constexpr, SEGMENT: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_I: tl.constexpr,
):  # fmt: skip
    """Part ``split`` of ``(weights[m] * grad)^T @ tokens``, a tile of it; parts_ptr: [splits, M, D, D].

    A split takes a run of segments of SEGMENT slots and passes over those in which no token weighs the source.
    """
    tiles_o, tiles_i = tl.cdiv(D, BLOCK_O), tl.cdiv(D, BLOCK_I)
    out = tl.program_id(0) // tiles_i % tiles_o * BLOCK_O + tl.arange(0, BLOCK_O)
    inner = tl.program_id(0) % tiles_i * BLOCK_I + tl.arange(0, BLOCK_I)
    m = tl.program_id(0) // (tiles_i * tiles_o) % M
    split = tl.program_id(0) // (tiles_i * tiles_o * M)
    in_out, in_inner = out < D, inner < D
    total = tl.zeros((BLOCK_O, BLOCK_I), SUMS)
    each = tl.cdiv(segments, splits)
    for segment in range(split * each, tl.minimum(split * each + each, segments)):
        first = segment * SEGMENT
        seen = tl.max((tl.load(weights_ptr + m * slots + first + tl.arange(0, SEGMENT)) != 0).to(tl.int32), 0)
        for start in range(first, first + seen * SEGMENT, BLOCK_T):
            slot = start + tl.arange(0, BLOCK_T)
            token, weight = tl.load(order_ptr + slot), tl.load(weights_ptr + m * slots + slot)
            weighed = (weight != 0)[:, None]
            grad_row = _row_pointers(grad_ptr, token, grad_stride_b, grad_stride_n, N)
            grad = tl.load(grad_row[:, None] + out[None, :], mask=weighed & in_out[None, :], other=0)
            token_row = _row_pointers(tokens_ptr, token, stride_b, stride_n, N)
            tokens = tl.load(token_row[:, None] + inner[None, :], mask=weighed & in_inner[None, :], other=0)
            weighted = (weight[:, None] * grad.to(SUMS)).to(tokens.dtype)
            total = tl.dot(tl.trans(weighted), tokens, total, input_precision=PRECISION, out_dtype=SUMS)
    part_ptr = parts_ptr + ((split * M + m).to(tl.int64) * D + out)[:, None] * D + inner[None, :]
    tl.store(part_ptr, total, mask=in_out[:, None] & in_inner[None, :])


def too_many(tokens: Tensor, bias: Tensor) -> bool:
    """The order counts its slots, once a source, in 32 bits."""
    return bias.shape[0] * (tokens.shape[0] * tokens.shape[1] + GROUP) >= 2**31


def ordered(tokens: Tensor, mix: tuple[Tensor | None, ...], constants: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """The tokens ``[B, N, D]`` in their order, ``[slots]``, and what each source weighs there, ``[M, slots]``."""
    slots = triton.cdiv(tokens.shape[0] * tokens.shape[1], GROUP) * GROUP
    sums = torch.promote_types(tokens.dtype, torch.float32)
    weights = tokens.new_empty(constants["M"], slots, dtype=sums)
    return order_of(tokens, mix, constants, weights), weights


def order_of(
    tokens: Tensor, mix: tuple[Tensor | None, ...], constants: dict[str, Any], weights: Tensor | None = None
) -> Tensor:
    """The order alone, unless ``weights`` are to be filled."""
    count = tokens.shape[0] * tokens.shape[1]
    return _order(tokens, mix, constants, weights, triton.cdiv(count, GROUP), GROUP, count)


def order_of_blocks(
    tokens: Tensor, mix: tuple[Tensor | None, ...], constants: dict[str, Any], blocks: Blocks, group: int
) -> Tensor:
    """The tokens of each block by their heaviest source, then by their place: ``[blocks.count * group]``."""
    place = (tokens.shape[0], blocks.samples, blocks.chunks, blocks.rows)
    return _order(tokens, mix, constants, None, blocks.count, group, 0, place)


def _order(
    tokens: Tensor,
    mix: tuple[Tensor | None, ...],
    constants: dict[str, Any],
    weights: Tensor | None,
    groups: int,
    group: int,
    count: int,
    place: tuple[int, int, int, int] | None = None,
) -> Tensor:
    order = tokens.new_empty(groups * group, dtype=torch.int32)
    _order_kernel[(groups,)](
        *mix, order, weights, count, groups * group, *(place or (0, 0, 0, 0)),
        **constants, GROUP=group, BLOCKS=place is not None, num_warps=ORDER_WARPS,
    )  # fmt: skip
    return order


def multiply(rows: Tensor, matrices: Tensor, bias: Tensor | None, order: tuple[Tensor, Tensor], result: Tensor) -> None:
    """``result = rows + sum over m of weights[m] * (rows @ matrices[m]^T + bias[m])``; matrices with any strides."""
    batch, count, width = rows.shape
    slots = order[0].shape[0]
    matrices = matrices.to(rows.dtype)
    blocks = PRODUCT[rows.element_size()]
    tiles = triton.cdiv(batch * count, blocks["BLOCK_T"]) * triton.cdiv(width, blocks["BLOCK_O"])
    _product_kernel[(tiles,)](
        rows, matrices, bias, *order, result, slots, rows.stride(0), rows.stride(1), *matrices.stride(),
        N=count, D=width, M=matrices.shape[0], BIAS=bias is not None, SUMS=sums_of(rows.dtype), PRECISION=products_of(rows.dtype),
        **blocks,
    )  # fmt: skip


def weight_gradient_parts(grad: Tensor, tokens: Tensor, order: tuple[Tensor, Tensor], sources: int) -> Tensor:
    """``[splits, M, D, D]`` in the dtype of the sums."""
    width, blocks = tokens.shape[2], WEIGHT_GRADIENT[tokens.element_size()]
    tiles = sources * triton.cdiv(width, blocks["BLOCK_O"]) * triton.cdiv(width, blocks["BLOCK_I"])
    segments = triton.cdiv(tokens.shape[0] * tokens.shape[1], SEGMENT)
    splits = min(segments, triton.cdiv(WEIGHT_GRADIENT_PROGRAMS, tiles))
    sums = torch.promote_types(tokens.dtype, torch.float32)
    parts = tokens.new_empty(splits, sources, width, width, dtype=sums)
    _weight_gradient_kernel[(splits * tiles,)](
        grad, tokens, *order, parts, order[0].shape[0], segments, splits,
        grad.stride(0), grad.stride(1), tokens.stride(0), tokens.stride(1),
        N=tokens.shape[1], D=width, M=sources, SUMS=sums_of(tokens.dtype), PRECISION=products_of(tokens.dtype), SEGMENT=SEGMENT,
        **blocks,
    )  # fmt: skip
    return parts
