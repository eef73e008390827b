"""class_attention in Triton: a program takes one set of one sample, all tokens at once, a chunk of columns at a time.

Three passes over the chunks: the means; variances and products of the queries; weighted sums (backward: gradients). Memory gives
the tokens once, the caches the other times. Scores of all tokens are there before the softmax, so backward keeps nothing.
With p the attention, s the scores, g the gradient of a head's result, and r one over a token's standard deviation,

    ds = p (g . x^ - sum_n p_n (g . x^_n)),    grad x = r (sum_h p g + ds q) - its mean - its part along x^,

where mean and part along x^ are known from sums over heads: of p mean(g) + ds mean(q), and of p (g . x^) + ds s.

Products are float32's on tensor cores (three TF32 products each; one where PyTorch's own may use TF32), whatever the tokens' dtype:
there are few, and tokens in half precision then lose nothing. float64, more than MAX_TOKENS tokens and very many heads are the
reference's.

Dimensions: B samples, S sets, N tokens, D width, H heads, M sources.
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
from mixfast_kernels._triton.source_attribution import _zone_biases
from mixfast_kernels._triton.zones import coverage, zone_of
from mixfast_kernels.class_attention import class_attention_backward_reference, class_attention_reference

repair()

MAX_TOKENS = 256
# By tokens, rounded up to a power of two: columns of a chunk. With 8 warps a chunk is 16 elements a thread at most.
COLUMNS = {64: 32, 128: 32, 256: 16}
WARPS = 8
# Heads times tokens, each rounded up: 16 scores a thread, and as many of each of their gradients.
MAX_SCORES = 4096
# Tokens at a time in the last pass: a dot's operand of so many tokens and 16 heads is in the registers of every warp.
BLOCK_T = 32


@triton.jit
def _shares(
    zone_ptr, sample, position, in_rows, N: tl.constexpr, WIDTH: tl.constexpr, KIND: tl.constexpr, SOURCE: tl.constexpr
):
    """How much of each token lies inside the zone; nothing reads it without one."""
    share = tl.zeros(position.shape, tl.float32)
    if SOURCE == "mixed":
        share = coverage(zone_ptr, sample, position, in_rows, N, WIDTH, KIND).to(tl.float32)
    return share


@triton.jit
def _tokens(
    tokens_ptr, source_ptr, inside_ptr, outside_ptr, share, sample, which, position, in_rows, column, stride_n,
    D: tl.constexpr, M: tl.constexpr, SOURCE: tl.constexpr,
):  # fmt: skip
    """Columns of all tokens of a sample with their source: [rows, columns], 0 in columns that are none."""
    in_columns = column < D
    row_ptr = tokens_ptr + position.to(tl.int64)[:, None] * stride_n
    tokens = tl.load(row_ptr + column[None, :], mask=in_rows[:, None] & in_columns[None, :], other=0).to(tl.float32)
    if SOURCE == "mixed":
        inner, outer = _zone_biases(inside_ptr, outside_ptr, source_ptr, sample, column, in_columns, D, M, tl.float32)
        tokens += share[:, None] * inner[None, :] + (1 - share[:, None]) * outer[None, :]
    elif SOURCE == "each":
        tokens += tl.load(source_ptr + which * D + column, mask=in_columns, other=0).to(tl.float32)[None, :]
    return tokens


@triton.jit
def _means(
    tokens_ptr, source_ptr, inside_ptr, outside_ptr, share, sample, which, position, in_rows, stride_n,
    D: tl.constexpr, M: tl.constexpr, SOURCE: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    sums = tl.zeros(position.shape, tl.float32)
    for start in range(0, D, BLOCK_C):
        column = start + tl.arange(0, BLOCK_C)
        sums += tl.sum(
            _tokens(
                tokens_ptr, source_ptr, inside_ptr, outside_ptr, share, sample, which, position, in_rows, column, stride_n,
                D, M, SOURCE,
            ),
            1,
        )  # fmt: skip
    return sums / D


@triton.jit
def _keys(
    tokens_ptr, source_ptr, inside_ptr, outside_ptr, zone_ptr, mean_ptr, sample, which, position, column, stride_n,
    N: tl.constexpr, D: tl.constexpr, M: tl.constexpr, WIDTH: tl.constexpr, KIND: tl.constexpr, SOURCE: tl.constexpr,
):  # fmt: skip
    """Columns of some tokens without the means that mean_ptr holds, 0 outside; and how much of each lies inside the zone."""
    in_rows = position < N
    share = _shares(zone_ptr, sample, position, in_rows, N, WIDTH, KIND, SOURCE)
    tokens = _tokens(
        tokens_ptr, source_ptr, inside_ptr, outside_ptr, share, sample, which, position, in_rows, column, stride_n,
        D, M, SOURCE,
    )  # fmt: skip
    mean = tl.load(mean_ptr + position, mask=in_rows, other=0)
    return tl.where(in_rows[:, None] & (column < D)[None, :], tokens - mean[:, None], 0.0), share


@triton.jit
def _class_statistics(class_ptr, eps, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """The class token's mean, and one over its standard deviation."""
    column = tl.arange(0, BLOCK_D)
    values = tl.load(class_ptr + column, mask=column < D, other=0).to(tl.float32)
    mean = tl.sum(values, 0) / D
    centred = tl.where(column < D, values - mean, 0.0)
    return mean, tl.rsqrt(tl.sum(centred * centred, 0) / D + eps)


@triton.jit
def _class_columns(class_ptr, mean, column, D: tl.constexpr):
    values = tl.load(class_ptr + column, mask=column < D, other=0).to(tl.float32)
    return tl.where(column < D, values - mean, 0.0)


@triton.jit
def _head_rows(pointer, head, column, D: tl.constexpr, H: tl.constexpr):
    """Columns of one set's queries or gradients: [heads, columns]."""
    in_tile = (head < H)[:, None] & (column < D)[None, :]
    return tl.load(pointer + head[:, None] * D + column[None, :], mask=in_tile, other=0).to(tl.float32)


@triton.jit
def _store_rows(pointer, head, column, values, D: tl.constexpr, H: tl.constexpr):
    in_tile = (head < H)[:, None] & (column < D)[None, :]
    tl.store(pointer + head[:, None] * D + column[None, :], values.to(pointer.dtype.element_ty), mask=in_tile)


@triton.jit
def _softmax(scores, class_scores, in_rows):
    """The attention of each head to all tokens and to the class token."""
    scores = tl.where(in_rows[None, :], scores, float("-inf"))
    highest = tl.maximum(tl.max(scores, 1), class_scores)
    masses, class_masses = tl.exp(scores - highest[:, None]), tl.exp(class_scores - highest)
    share = 1 / (tl.sum(masses, 1) + class_masses)
    return masses * share[:, None], class_masses * share


@triton.jit
def _forward_kernel(
    tokens_ptr, class_ptr, query_ptr, source_ptr, inside_ptr, outside_ptr, zone_ptr, weights_ptr, result_ptr,
    stride_b, stride_n, eps,
    S: tl.constexpr, N: tl.constexpr, D: tl.constexpr, H: tl.constexpr, M: tl.constexpr, WIDTH: tl.constexpr,
    KIND: tl.constexpr, SOURCE: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """One set's result, a row a head. weights_ptr: [B, S, H + 1, N], scratch."""
    sample, which = tl.program_id(0) // S, tl.program_id(0) % S
    one_set = tl.program_id(0).to(tl.int64)
    tokens_ptr += sample.to(tl.int64) * stride_b
    class_ptr += one_set * D
    query_ptr += one_set * H * D
    result_ptr += one_set * H * D
    position, head = tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_H)
    in_rows = position < N
    share = _shares(zone_ptr, sample, position, in_rows, N, WIDTH, KIND, SOURCE)
    mean = _means(
        tokens_ptr, source_ptr, inside_ptr, outside_ptr, share, sample, which, position, in_rows, stride_n,
        D, M, SOURCE, BLOCK_C,
    )  # fmt: skip
    class_mean, class_scale = _class_statistics(class_ptr, eps, D, BLOCK_D)
    squares = tl.zeros((BLOCK_N,), tl.float32)
    scores = tl.zeros((BLOCK_H, BLOCK_N), tl.float32)
    class_scores = tl.zeros((BLOCK_H,), tl.float32)
    for start in range(0, D, BLOCK_C):
        column = start + tl.arange(0, BLOCK_C)
        tokens = _tokens(
            tokens_ptr, source_ptr, inside_ptr, outside_ptr, share, sample, which, position, in_rows, column, stride_n,
            D, M, SOURCE,
        )  # fmt: skip
        keys = tl.where((column < D)[None, :], tokens - mean[:, None], 0.0)
        query = _head_rows(query_ptr, head, column, D, H)
        squares += tl.sum(keys * keys, 1)
        class_scores += tl.sum(query * _class_columns(class_ptr, class_mean, column, D)[None, :], 1)
        scores = tl.dot(query, tl.trans(keys), scores, input_precision=PRECISION)
    scale = tl.rsqrt(squares / D + eps)
    attention, class_attention = _softmax(scores * scale[None, :], class_scores * class_scale, in_rows)
    class_weights = class_attention * class_scale
    # Through memory, which the caches hold: the next pass takes them block by block, and would else keep all in registers.
    weights_ptr += one_set * (H + 1) * N
    _store_rows(weights_ptr, head, position, attention * scale[None, :], N, H)
    tl.store(weights_ptr + H * N + position, mean, mask=in_rows)
    tl.debug_barrier()
    for start in range(0, D, BLOCK_C):
        column = start + tl.arange(0, BLOCK_C)
        sums = class_weights[:, None] * _class_columns(class_ptr, class_mean, column, D)[None, :]
        for first in range(0, N, BLOCK_T):
            few = first + tl.arange(0, BLOCK_T)
            keys, _ = _keys(
                tokens_ptr, source_ptr, inside_ptr, outside_ptr, zone_ptr, weights_ptr + H * N, sample, which, few, column,
                stride_n, N, D, M, WIDTH, KIND, SOURCE,
            )  # fmt: skip
            sums = tl.dot(_head_rows(weights_ptr, head, few, N, H), keys, sums, input_precision=PRECISION)
        _store_rows(result_ptr, head, column, sums, D, H)


@triton.jit
def _backward_kernel(
    grad_ptr, tokens_ptr, class_ptr, query_ptr, source_ptr, inside_ptr, outside_ptr, zone_ptr,
    weights_ptr, grad_tokens_ptr, grad_class_ptr, grad_query_ptr, source_parts_ptr, stride_b, stride_n, eps,
    S: tl.constexpr, N: tl.constexpr, D: tl.constexpr, H: tl.constexpr, M: tl.constexpr, WIDTH: tl.constexpr,
    KIND: tl.constexpr, SOURCE: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """One set's gradients. grad_tokens_ptr: [B, S, N, D]; source_parts_ptr: what was added to this set's tokens, inside and
    outside the zone ([B, 2, D]) or anywhere ([B, S, D]); weights_ptr: [B, S, 2 H + 3, N], scratch."""
    sample, which = tl.program_id(0) // S, tl.program_id(0) % S
    one_set = tl.program_id(0).to(tl.int64)
    tokens_ptr += sample.to(tl.int64) * stride_b
    class_ptr += one_set * D
    query_ptr += one_set * H * D
    grad_ptr += one_set * H * D
    position, head = tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_H)
    in_rows = position < N
    share = _shares(zone_ptr, sample, position, in_rows, N, WIDTH, KIND, SOURCE)
    mean = _means(
        tokens_ptr, source_ptr, inside_ptr, outside_ptr, share, sample, which, position, in_rows, stride_n,
        D, M, SOURCE, BLOCK_C,
    )  # fmt: skip
    class_mean, class_scale = _class_statistics(class_ptr, eps, D, BLOCK_D)
    squares = tl.zeros((BLOCK_N,), tl.float32)
    scores = tl.zeros((BLOCK_H, BLOCK_N), tl.float32)
    products = tl.zeros((BLOCK_H, BLOCK_N), tl.float32)
    class_scores, class_products = tl.zeros((BLOCK_H,), tl.float32), tl.zeros((BLOCK_H,), tl.float32)
    query_mean, grad_mean = tl.zeros((BLOCK_H,), tl.float32), tl.zeros((BLOCK_H,), tl.float32)
    for start in range(0, D, BLOCK_C):
        column = start + tl.arange(0, BLOCK_C)
        tokens = _tokens(
            tokens_ptr, source_ptr, inside_ptr, outside_ptr, share, sample, which, position, in_rows, column, stride_n,
            D, M, SOURCE,
        )  # fmt: skip
        keys = tl.where((column < D)[None, :], tokens - mean[:, None], 0.0)
        class_key = _class_columns(class_ptr, class_mean, column, D)[None, :]
        query, grad = _head_rows(query_ptr, head, column, D, H), _head_rows(grad_ptr, head, column, D, H)
        squares += tl.sum(keys * keys, 1)
        class_scores += tl.sum(query * class_key, 1)
        class_products += tl.sum(grad * class_key, 1)
        query_mean += tl.sum(query, 1) / D
        grad_mean += tl.sum(grad, 1) / D
        scores = tl.dot(query, tl.trans(keys), scores, input_precision=PRECISION)
        products = tl.dot(grad, tl.trans(keys), products, input_precision=PRECISION)

    scale = tl.rsqrt(squares / D + eps)
    scores *= scale[None, :]
    products *= scale[None, :]
    class_scores *= class_scale
    class_products *= class_scale
    attention, class_attention = _softmax(scores, class_scores, in_rows)
    delta = tl.sum(attention * products, 1) + class_attention * class_products
    grad_scores = attention * (products - delta[:, None])
    class_grad_scores = class_attention * (class_products - delta)
    # What keys (without mean) and a constant add to the tokens' gradients.
    along = -tl.sum(attention * products + grad_scores * scores, 0) * scale * scale / D
    class_along = -tl.sum(class_attention * class_products + class_grad_scores * class_scores, 0)
    class_along *= class_scale * class_scale / D
    by_query, by_grad = grad_scores * scale[None, :], attention * scale[None, :]
    class_by_query, class_by_grad = class_grad_scores * class_scale, class_attention * class_scale
    constant = -tl.sum(by_query * query_mean[:, None] + by_grad * grad_mean[:, None], 0)
    class_constant = -tl.sum(class_by_query * query_mean + class_by_grad * grad_mean, 0)
    weights_ptr += one_set * (2 * H + 3) * N
    grad_weights_ptr, mean_ptr = weights_ptr + H * N, weights_ptr + 2 * H * N
    _store_rows(weights_ptr, head, position, by_query, N, H)
    _store_rows(grad_weights_ptr, head, position, by_grad, N, H)
    tl.store(mean_ptr + position, mean, mask=in_rows)
    tl.store(mean_ptr + N + position, along, mask=in_rows)
    tl.store(mean_ptr + 2 * N + position, constant, mask=in_rows)
    tl.debug_barrier()

    grad_tokens_ptr += one_set * N * D
    for start in range(0, D, BLOCK_C):
        column = start + tl.arange(0, BLOCK_C)
        in_columns = column < D
        class_key = _class_columns(class_ptr, class_mean, column, D)
        query, grad = _head_rows(query_ptr, head, column, D, H), _head_rows(grad_ptr, head, column, D, H)
        grad_class = tl.sum(class_by_grad[:, None] * grad + class_by_query[:, None] * query, 0)
        grad_class += class_constant + class_along * class_key
        class_at = grad_class_ptr + one_set * D + column
        tl.store(class_at, grad_class.to(grad_class_ptr.dtype.element_ty), mask=in_columns)
        sums = class_by_query[:, None] * class_key[None, :]
        within, without = tl.zeros((BLOCK_C,), tl.float32), tl.zeros((BLOCK_C,), tl.float32)
        for first in range(0, N, BLOCK_T):
            few = first + tl.arange(0, BLOCK_T)
            keys, few_share = _keys(
                tokens_ptr, source_ptr, inside_ptr, outside_ptr, zone_ptr, mean_ptr, sample, which, few, column,
                stride_n, N, D, M, WIDTH, KIND, SOURCE,
            )  # fmt: skip
            few_by_query = _head_rows(weights_ptr, head, few, N, H)
            sums = tl.dot(few_by_query, keys, sums, input_precision=PRECISION)
            rows = tl.load(mean_ptr + N + few, mask=few < N, other=0)[:, None] * keys
            rows += tl.load(mean_ptr + 2 * N + few, mask=few < N, other=0)[:, None]
            rows = tl.dot(tl.trans(few_by_query), query, rows, input_precision=PRECISION)
            few_by_grad = _head_rows(grad_weights_ptr, head, few, N, H)
            rows = tl.dot(tl.trans(few_by_grad), grad, rows, input_precision=PRECISION)
            token_at = grad_tokens_ptr + few[:, None] * D + column[None, :]
            tl.store(token_at, rows.to(grad_tokens_ptr.dtype.element_ty), mask=(few < N)[:, None] & in_columns[None, :])
            if SOURCE == "mixed":
                within += tl.sum(few_share[:, None] * rows, 0)
                without += tl.sum((1 - few_share[:, None]) * rows, 0)
            elif SOURCE == "each":
                within += tl.sum(rows, 0)
        _store_rows(grad_query_ptr + one_set * H * D, head, column, sums, D, H)
        if SOURCE == "mixed":
            part_at = source_parts_ptr + sample.to(tl.int64) * 2 * D + column
            tl.store(part_at, within, mask=in_columns)
            tl.store(part_at + D, without, mask=in_columns)
        elif SOURCE == "each":
            tl.store(source_parts_ptr + one_set * D + column, within, mask=in_columns)


def _takes(tokens: Tensor, query: Tensor) -> bool:
    """Whether the kernels do; what is empty, too large, or float64 is the reference's."""
    _, count, width = tokens.shape
    if tokens.numel() == 0 or query.numel() == 0 or tokens.dtype == torch.float64:
        return False
    if count > MAX_TOKENS or count * width >= 2**31 or query.shape[0] * query.shape[1] >= 2**31:
        return False
    return _block_of_heads(query.shape[2]) * _block_of_tokens(count) <= MAX_SCORES


def _block_of_tokens(count: int) -> int:
    return max(triton.next_power_of_2(count), min(COLUMNS))


def _block_of_heads(heads: int) -> int:
    return max(triton.next_power_of_2(heads), 16)  # a dot's fewest rows


def _arguments(
    tokens: Tensor,
    class_token: Tensor,
    query: Tensor,
    source: Tensor | None,
    inside: Tensor | None,
    outside: Tensor | None,
    box: Tensor | None,
    bitmap: Tensor | None,
    grid: list[int],
) -> tuple[tuple[Tensor | None, ...], dict[str, Any]]:
    """The kernels' tensors, tokens to zone, and their constants."""
    zone, kind = zone_of(box, bitmap)
    rest = (None if value is None else value.contiguous() for value in (class_token, query, source, inside, outside))
    tokens = tokens if tokens.stride(2) == 1 else tokens.contiguous()
    count, width = tokens.shape[1:]
    rows = _block_of_tokens(count)
    constants = {
        "S": query.shape[1],
        "N": count,
        "D": width,
        "H": query.shape[2],
        "M": 0 if source is None else source.shape[0],
        "WIDTH": int(grid[1]) if grid else 1,
        "KIND": kind,
        "SOURCE": "none" if source is None else "each" if inside is None else "mixed",
        "PRECISION": "tf32" if tokens.dtype == torch.float32 and torch.backends.cuda.matmul.allow_tf32 else "tf32x3",
        "BLOCK_N": rows,
        "BLOCK_T": BLOCK_T,
        "BLOCK_H": _block_of_heads(query.shape[2]),
        "BLOCK_C": COLUMNS[rows],
        "BLOCK_D": triton.next_power_of_2(width),
        "num_warps": WARPS,
        "num_stages": 1,  # chunks come from the caches; fetching ahead takes more shared memory than an RTX card has
    }
    return (tokens, *rest, zone), constants


def class_attention(
    tokens_BND: Tensor,
    class_token_BSD: Tensor,
    query_BSHD: Tensor,
    source_MD: Tensor | None,
    inside_BM: Tensor | None,
    outside_BM: Tensor | None,
    box: Tensor | None,
    bitmap: Tensor | None,
    grid: list[int],
    eps: float,
) -> Tensor:
    """``[B, S, H, D]`` in float32."""
    mix = (source_MD, inside_BM, outside_BM, box, bitmap, grid)
    if not _takes(tokens_BND, query_BSHD):
        return class_attention_reference(tokens_BND, class_token_BSD, query_BSHD, *mix, eps)
    tensors, constants = _arguments(tokens_BND, class_token_BSD, query_BSHD, *mix)
    result_BSHD = query_BSHD.new_empty(query_BSHD.shape, dtype=torch.float32)
    batch, sets, heads = query_BSHD.shape[:3]
    weights = tokens_BND.new_empty(batch, sets, heads + 1, tokens_BND.shape[1], dtype=torch.float32)
    with torch.cuda.device_of(tokens_BND):
        _forward_kernel[(batch * sets,)](
            *tensors, weights, result_BSHD, tensors[0].stride(0), tensors[0].stride(1), eps, **constants
        )
    return result_BSHD


def class_attention_backward(
    grad_BSHD: Tensor,
    tokens_BND: Tensor,
    class_token_BSD: Tensor,
    query_BSHD: Tensor,
    source_MD: Tensor | None,
    inside_BM: Tensor | None,
    outside_BM: Tensor | None,
    box: Tensor | None,
    bitmap: Tensor | None,
    grid: list[int],
    eps: float,
    zones: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of tokens, class_token, query, source, inside and outside; empty for what is absent or not wanted (``zones``)."""
    mix = (source_MD, inside_BM, outside_BM, box, bitmap, grid)
    if not _takes(tokens_BND, query_BSHD):
        return class_attention_backward_reference(grad_BSHD, tokens_BND, class_token_BSD, query_BSHD, *mix, eps, zones)
    tensors, constants = _arguments(tokens_BND, class_token_BSD, query_BSHD, *mix)
    batch, sets, heads, width = query_BSHD.shape
    weights = tokens_BND.new_empty(batch, sets, 2 * heads + 3, tokens_BND.shape[1], dtype=torch.float32)
    # Sets are programs of their own: where there are several, their parts are added afterwards.
    parts_dtype = tokens_BND.dtype if sets == 1 else torch.float32
    grad_tokens = tokens_BND.new_empty(batch, sets, *tokens_BND.shape[1:], dtype=parts_dtype)
    grad_class, grad_query = class_token_BSD.new_empty(class_token_BSD.shape), query_BSHD.new_empty(query_BSHD.shape)
    rows = {"none": 0, "each": sets, "mixed": 2}[constants["SOURCE"]]
    source_parts = tokens_BND.new_empty(batch, rows, width, dtype=torch.float32) if rows else None
    with torch.cuda.device_of(tokens_BND):
        _backward_kernel[(batch * sets,)](
            grad_BSHD.contiguous(), *tensors, weights, grad_tokens, grad_class, grad_query, source_parts,
            tensors[0].stride(0), tensors[0].stride(1), eps, **constants,
        )  # fmt: skip
    grad_tokens = grad_tokens[:, 0] if sets == 1 else grad_tokens.sum(1).to(tokens_BND.dtype)
    grads_of_source = _source_gradients(tokens_BND, source_parts, source_MD, inside_BM, outside_BM, zones)
    return grad_tokens, grad_class, grad_query, *grads_of_source


def _source_gradients(
    tokens: Tensor,
    parts: Tensor | None,
    source: Tensor | None,
    inside: Tensor | None,
    outside: Tensor | None,
    zones: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Those of source, inside and outside, from each sample's sums of its tokens' gradients."""
    nothing = [tokens.new_empty(0, dtype=torch.float32) for _ in range(3)]
    if source is None or parts is None:
        return tuple(nothing)
    if inside is None or outside is None:
        return parts.sum(0).to(source.dtype), *nothing[1:]
    zone_weights = (inside.to(parts.dtype), outside.to(parts.dtype))
    grad_source = sum(weights.T @ parts[:, zone] for zone, weights in enumerate(zone_weights))
    if not zones:
        return grad_source.to(source.dtype), inside.new_empty(0), outside.new_empty(0)
    grads = ((parts[:, zone] @ source.to(parts.dtype).T).to(inside.dtype) for zone in range(2))
    return grad_source.to(source.dtype), *grads


def aot_cases() -> list[Case]:
    """Sizes of the thesis: ConViT on CIFAR, 64 tokens of 384, 12 heads; CaiT-XS on ImageNet-100, 196 tokens of 288, 6 heads.

    Training with a mix; inference of two sets with a source each, whose backward pass is there for completeness.
    """
    cases = []
    for name, (batch, side, width, heads), dtype, sets, zone in (
        ("ConViT", (128, 8, 384, 12), torch.bfloat16, 1, True),
        ("ConViT", (128, 8, 384, 12), torch.float32, 1, True),
        ("ConViT, plain", (128, 8, 384, 12), torch.float32, 1, False),
        ("ConViT, 2 sets", (128, 8, 384, 12), torch.float16, 2, False),
        ("CaiT-XS", (64, 14, 288, 6), torch.bfloat16, 1, True),
        ("CaiT-XS", (64, 14, 288, 6), torch.float32, 1, True),
    ):
        tokens, class_token = meta(batch, side * side, width, dtype=dtype), meta(batch, sets, width, dtype=dtype)
        query, grad = meta(batch, sets, heads, width, dtype=dtype), meta(batch, sets, heads, width)
        source = meta(2, width, dtype=dtype) if zone or sets > 1 else None
        weights, box = (meta(batch, 2), meta(batch, 4, dtype=torch.int32)) if zone else (None, None)
        mix = (source, weights, weights, box, None)
        label = f"{str(dtype).removeprefix('torch.')}, {name}"
        arguments = (tokens, class_token, query, *mix, [side, side] if zone else [], 1e-6)
        flops = 4 * batch * sets * heads * (side * side + 1) * width
        small = nbytes(class_token, query, *mix)
        forward = functools.partial(class_attention, *arguments)
        floor = nbytes(tokens, grad) + small
        cases.append(Case(f"class_attention: forward, {label}", forward, floor, flops, torch.float32))
        backward = functools.partial(class_attention_backward, grad, *arguments, False)
        floor = 2 * nbytes(tokens) + nbytes(grad, query, class_token, source) + small
        cases.append(Case(f"class_attention: backward, {label}", backward, floor, 5 * flops // 2, torch.float32))
    return cases
