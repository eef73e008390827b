"""The kernels of class_attention: one set of one sample a program.

Three passes over the chunks: the means; variances and products of the queries; weighted sums (backward: gradients). Memory gives
the tokens once, the caches the other times. Scores of all tokens are there before the softmax, so backward keeps nothing.
With p the attention, s the scores, g the gradient of a head's result, and r one over a token's standard deviation,

    ds = p (g . x^ - sum_n p_n (g . x^_n)),    grad x = r (sum_h p g + ds q) - its mean - its part along x^,

where mean and part along x^ are known from sums over heads: of p mean(g) + ds mean(q), and of p (g . x^) + ds s.

Dimensions: S sets, N tokens, D width, H heads, M sources.
"""

from __future__ import annotations

import triton
import triton.language as tl

from mixfast_kernels._triton.interpreter import repair
from mixfast_kernels._triton.source_attribution import _zone_biases
from mixfast_kernels._triton.zones import coverage

repair()


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
