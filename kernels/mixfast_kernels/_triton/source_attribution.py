"""source_attribution in Triton. Embedding: one streaming pass. Encoding: a grouped product, one matrix a token.

Backward, the tokens' gradient of the encoding is the same grouped product with the matrices transposed. The gradients of
the mix's own weights, which training never asks for, go through the reference, as do batches of 2^31 tokens and more.

Dimensions: B samples, N tokens, D width, M sources.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from mixfast_kernels._triton.aot import Case, meta, nbytes
from mixfast_kernels._triton.grouped_product import multiply, ordered, too_many, weight_gradient_parts
from mixfast_kernels._triton.interpreter import repair
from mixfast_kernels._triton.precision import sums_of
from mixfast_kernels._triton.zones import coverage, zone_of
from mixfast_kernels.source_attribution import source_attribution_backward_reference, source_attribution_reference

repair()

# Streaming: 32 tokens x 128 columns are four 128-bit accesses a thread in bfloat16, eight in float32. The bias's gradient
# keeps two sums of a tile: a whole sample of 64 tokens at once, but half the columns and twice the threads.
EMBEDDING = {"BLOCK_N": 32, "BLOCK_D": 128, "num_warps": 4}
BIAS_GRADIENT = {"BLOCK_N": 64, "BLOCK_D": 64, "num_warps": 8}
# Parts of its sum over samples: enough programs for a large card, few enough to add up quickly.
BIAS_GRADIENT_SPLITS = 64


@triton.jit
def _zone_biases(inside_ptr, outside_ptr, bias_ptr, sample, column, in_columns, D, M: tl.constexpr, SUMS: tl.constexpr):
    """What a token of this sample gets inside the zone and outside: [columns] each."""
    inner = tl.zeros(column.shape, SUMS)
    outer = tl.zeros(column.shape, SUMS)
    for m in tl.static_range(M):
        bias = tl.load(bias_ptr + m * D + column, mask=in_columns, other=0).to(SUMS)
        inner += tl.load(inside_ptr + sample.to(tl.int64) * M + m).to(SUMS) * bias
        outer += tl.load(outside_ptr + sample.to(tl.int64) * M + m).to(SUMS) * bias
    return inner, outer


@triton.jit
def _embedding_kernel(
    tokens_ptr, inside_ptr, outside_ptr, zone_ptr, bias_ptr, result_ptr, stride_b, stride_n, D,
    N: tl.constexpr, WIDTH: tl.constexpr, M: tl.constexpr, KIND: tl.constexpr, SUMS: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """BLOCK_N tokens of one sample, BLOCK_D columns."""
    columns, rows = tl.cdiv(D, BLOCK_D), tl.cdiv(N, BLOCK_N)
    sample = tl.program_id(0) // (columns * rows)
    position = tl.program_id(0) // columns % rows * BLOCK_N + tl.arange(0, BLOCK_N)
    column = tl.program_id(0) % columns * BLOCK_D + tl.arange(0, BLOCK_D)
    in_rows, in_columns = position < N, column < D
    in_tile = in_rows[:, None] & in_columns[None, :]
    inner, outer = _zone_biases(inside_ptr, outside_ptr, bias_ptr, sample, column, in_columns, D, M, SUMS)
    share = coverage(zone_ptr, sample, position, in_rows, N, WIDTH, KIND).to(SUMS)[:, None]
    source_ptr = tokens_ptr + sample.to(tl.int64) * stride_b + position.to(tl.int64)[:, None] * stride_n
    tokens = tl.load(source_ptr + column[None, :], mask=in_tile, other=0).to(SUMS)
    tokens += share * inner[None, :] + (1 - share) * outer[None, :]
    target_ptr = result_ptr + (sample.to(tl.int64) * N + position)[:, None] * D + column[None, :]
    tl.store(target_ptr, tokens.to(result_ptr.dtype.element_ty), mask=in_tile)


@triton.jit(do_not_specialize=["batch", "splits"])
def _bias_gradient_kernel(
    grad_ptr, inside_ptr, outside_ptr, zone_ptr, parts_ptr, batch, splits, stride_b, stride_n, D,
    N: tl.constexpr, WIDTH: tl.constexpr, M: tl.constexpr, KIND: tl.constexpr, SUMS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Part ``split`` of ``sum of w_m * grad``: samples split, split + splits, ...; parts_ptr: [splits, M, D]."""
    columns = tl.cdiv(D, BLOCK_D)
    split = tl.program_id(0) // columns
    column = tl.program_id(0) % columns * BLOCK_D + tl.arange(0, BLOCK_D)
    in_columns = column < D
    source = tl.arange(0, BLOCK_M)
    sums = tl.zeros((BLOCK_M, BLOCK_D), SUMS)
    for step in range(0, batch - split, splits):
        sample = split + step
        within = tl.zeros((BLOCK_N, BLOCK_D), SUMS)
        without = tl.zeros((BLOCK_N, BLOCK_D), SUMS)
        for start in range(0, N, BLOCK_N):
            position = start + tl.arange(0, BLOCK_N)
            in_rows = position < N
            row_ptr = grad_ptr + sample.to(tl.int64) * stride_b + position.to(tl.int64)[:, None] * stride_n
            grad = tl.load(row_ptr + column[None, :], mask=in_rows[:, None] & in_columns[None, :], other=0).to(SUMS)
            share = coverage(zone_ptr, sample, position, in_rows, N, WIDTH, KIND).to(SUMS)[:, None]
            within += share * grad
            without += (1 - share) * grad
        weight_at = sample.to(tl.int64) * M + source
        inside = tl.load(inside_ptr + weight_at, mask=source < M, other=0).to(SUMS)
        outside = tl.load(outside_ptr + weight_at, mask=source < M, other=0).to(SUMS)
        sums += inside[:, None] * tl.sum(within, 0)[None, :] + outside[:, None] * tl.sum(without, 0)[None, :]
    part_ptr = parts_ptr + (split * M + source)[:, None] * D + column[None, :]
    tl.store(part_ptr, sums, mask=(source < M)[:, None] & in_columns[None, :])


def source_attribution(
    tokens_BND: Tensor,
    inside_BM: Tensor,
    outside_BM: Tensor,
    box: Tensor | None,
    bitmap: Tensor | None,
    bias_MD: Tensor,
    weight_MDD: Tensor | None,
    grid: list[int],
) -> Tensor:
    """``[B, N, D]`` to ``[B, N, D]``, in the dtype of the tokens."""
    if too_many(tokens_BND, bias_MD):
        return source_attribution_reference(tokens_BND, inside_BM, outside_BM, box, bitmap, bias_MD, weight_MDD, grid)
    result_BND = tokens_BND.new_empty(tokens_BND.shape)
    if result_BND.numel() == 0:
        return result_BND
    tokens_BND, bias_MD = _rows(tokens_BND), bias_MD.contiguous()
    mix, constants = _mix_arguments(tokens_BND, inside_BM, outside_BM, box, bitmap, grid)
    with torch.cuda.device_of(tokens_BND):
        if weight_MDD is None:
            _embed(tokens_BND, mix, constants, bias_MD, result_BND)
        else:
            order = ordered(tokens_BND, mix, constants)
            multiply(tokens_BND, weight_MDD, bias_MD, order, result_BND)
    return result_BND


def source_attribution_backward(
    grad_BND: Tensor,
    tokens_BND: Tensor | None,
    inside_BM: Tensor,
    outside_BM: Tensor,
    box: Tensor | None,
    bitmap: Tensor | None,
    bias_MD: Tensor,
    weight_MDD: Tensor | None,
    grid: list[int],
    zones: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of tokens, inside, outside, bias and weight; empty for an absent weight, the embedding's tokens (theirs is
    ``grad`` itself) and the zones, whose gradients are the reference's when they are wanted."""
    mix_tensors = (inside_BM, outside_BM, box, bitmap)
    if zones or grad_BND.numel() == 0 or too_many(grad_BND, bias_MD):
        return source_attribution_backward_reference(
            grad_BND, tokens_BND, *mix_tensors, bias_MD, weight_MDD, grid, zones
        )
    grad_BND = _rows(grad_BND)
    mix, constants = _mix_arguments(grad_BND, *mix_tensors, grid)
    grad_tokens, grad_weight = grad_BND.new_empty(0), grad_BND.new_empty(0)
    with torch.cuda.device_of(grad_BND):
        grad_bias = _bias_gradient(grad_BND, mix, constants).to(bias_MD.dtype)
        if weight_MDD is not None and tokens_BND is not None:
            order = ordered(grad_BND, mix, constants)
            grad_tokens = grad_BND.new_empty(grad_BND.shape)
            multiply(grad_BND, weight_MDD.transpose(1, 2), None, order, grad_tokens)
            parts = weight_gradient_parts(grad_BND, _rows(tokens_BND), order, bias_MD.shape[0])
            grad_weight = parts.sum(0).to(weight_MDD.dtype)
    return grad_tokens, inside_BM.new_empty(0), outside_BM.new_empty(0), grad_bias, grad_weight


def _rows(tokens: Tensor) -> Tensor:
    """Tokens whose columns lie side by side: as they are (any strides of samples and tokens), or a copy."""
    return tokens if tokens.stride(2) == 1 else tokens.contiguous()


def _mix_arguments(
    tokens: Tensor, inside: Tensor, outside: Tensor, box: Tensor | None, bitmap: Tensor | None, grid: list[int]
) -> tuple[tuple[Tensor | None, ...], dict[str, Any]]:
    zone, kind = zone_of(box, bitmap)
    constants = {
        "N": tokens.shape[1],
        "WIDTH": int(grid[1]),
        "M": inside.shape[1],
        "KIND": kind,
        "SUMS": sums_of(tokens.dtype),
    }
    return (inside.contiguous(), outside.contiguous(), zone), constants


def _fitted(blocks: dict[str, int], tokens: Tensor) -> dict[str, int]:
    """The blocks, no larger than a power of two that holds a sample."""
    count, width = (triton.next_power_of_2(size) for size in tokens.shape[1:])
    return {**blocks, "BLOCK_N": min(blocks["BLOCK_N"], count), "BLOCK_D": min(blocks["BLOCK_D"], width)}


def _embed(
    tokens: Tensor, mix: tuple[Tensor | None, ...], constants: dict[str, Any], bias: Tensor, result: Tensor
) -> None:
    batch, count, width = tokens.shape
    blocks = _fitted(EMBEDDING, tokens)
    programs = batch * triton.cdiv(count, blocks["BLOCK_N"]) * triton.cdiv(width, blocks["BLOCK_D"])
    strides = (tokens.stride(0), tokens.stride(1))
    _embedding_kernel[(programs,)](tokens, *mix, bias, result, *strides, width, **constants, **blocks)


def _bias_gradient(grad: Tensor, mix: tuple[Tensor | None, ...], constants: dict[str, Any]) -> Tensor:
    """``[M, D]`` in the dtype of the sums."""
    batch, _, width = grad.shape
    blocks, splits = _fitted(BIAS_GRADIENT, grad), min(batch, BIAS_GRADIENT_SPLITS)
    sums = torch.promote_types(grad.dtype, torch.float32)
    parts = grad.new_empty(splits, constants["M"], width, dtype=sums)
    programs = splits * triton.cdiv(width, blocks["BLOCK_D"])
    strides = (grad.stride(0), grad.stride(1))
    _bias_gradient_kernel[(programs,)](
        grad, *mix, parts, batch, splits, *strides, width,
        **constants, **blocks, BLOCK_M=triton.next_power_of_2(constants["M"]),
    )  # fmt: skip
    return parts.sum(0)


def aot_cases() -> list[Case]:
    """Sizes of the thesis: ConViT on Tiny ImageNet, 64 tokens of 384, and CaiT-XS on ImageNet-100, 196 tokens of 288."""
    cases = []
    for name, (batch, side, width), dtype, encoding in (
        ("ConViT", (128, 8, 384), torch.bfloat16, False),
        ("ConViT", (128, 8, 384), torch.float32, False),
        ("ConViT", (128, 8, 384), torch.bfloat16, True),
        ("ConViT", (128, 8, 384), torch.float32, True),
        ("CaiT-XS", (64, 14, 288), torch.float16, True),
        ("ConViT", (32, 8, 384), torch.float64, True),
    ):
        tokens = meta(batch, side * side, width, dtype=dtype)
        weights, box, bias = meta(batch, 2), meta(batch, 4, dtype=torch.int32), meta(2, width, dtype=dtype)
        weight = meta(2, width, width, dtype=dtype) if encoding else None
        mix, rest = (weights, weights, box, None, bias, weight), [side, side]
        form = "encoding" if encoding else "embedding"
        label = f"{form}, {str(dtype).removeprefix('torch.')}, {name}"
        # A binary mask: each token meets one matrix.
        flops = 2 * tokens.numel() * width if encoding else 0
        forward = functools.partial(source_attribution, tokens, *mix, rest)
        floor = 2 * nbytes(tokens) + nbytes(*mix)
        cases.append(Case(f"source_attribution: forward, {label}", forward, floor, flops, dtype))
        backward = functools.partial(
            source_attribution_backward, tokens, tokens if encoding else None, *mix, rest, False
        )
        floor = nbytes(tokens) * (3 if encoding else 1) + nbytes(*mix, bias, weight)
        cases.append(Case(f"source_attribution: backward, {label}", backward, floor, 2 * flops, dtype))
    return cases
