"""Talking-heads attention in Triton: a program holds a tile of every head, and mixes the heads in registers.

Forward, two passes over the keys: the mixed logits' maximum and sum of exponentials, then the result. Backward, five
kernels that compute the tiles again from the log-sum-exp: the softmax's row sums, the gradients of queries, of keys and of
values (each has a result of every head to hold, so one at a time), and those of the parameters, whose sums of single tiles
are then added in a fixed order.

A tile of each head is a tensor of its own: mixing is then arithmetic between registers, without a change of layout. They
are tuples of H tensors, in which only loops that are unrolled can look. More than ``MAX_HEADS`` heads do not fit, nor do
heads wider than ``MAX_WIDTH``: those go through the reference.

Dimensions: B samples, N tokens, H heads, E width of a head; a query is a row of a tile, a key a column, in the keys' kernel
the other way round.
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
from mixfast_kernels._triton.precision import products_of, sums_of
from mixfast_kernels.talking_heads_attention import (
    talking_heads_attention_backward_reference,
    talking_heads_attention_reference,
)

repair()

MAX_HEADS = 8
MAX_WIDTH = 64
# Queries and keys of a tile whose rows are queries, by element size; keys and queries of one whose rows are keys. 16 x 64 on 8
# warps is one instruction's tile a warp, and 16 rows of a result as well: the fewest registers for each head.
BLOCKS = {2: (16, 64), 4: (16, 64), 8: (16, 16)}
WARPS = 8
BLOCK_I = 16  # channels that a product takes at a time
MIN_BLOCK = 16  # the smallest of them
MAX_EXTENT = 2**31 - 2**16  # of a sample, with room for rows that are masked


@triton.jit
def _rows(start, stride_n, N: tl.constexpr, BLOCK: tl.constexpr):
    """Offsets of the rows from ``start`` on in a head's matrix, and which of them exist."""
    position = start + tl.arange(0, BLOCK)
    return position * stride_n, position < N


@triton.jit
def _products(
    rows_ptr, rows, rows_exist, rows_stride_h, columns_ptr, columns, columns_exist, columns_stride_h, FACTOR: tl.constexpr,
    H: tl.constexpr, E: tl.constexpr, SUMS: tl.constexpr, PRECISION: tl.constexpr, BLOCK_I: tl.constexpr,
):  # fmt: skip
    """Every head's ``FACTOR * rows @ columns``: of rows and columns that begin at these offsets, E channels each."""
    channel = tl.arange(0, BLOCK_I)
    products = ()
    for h in tl.static_range(H):
        product = tl.zeros((rows.shape[0], columns.shape[0]), SUMS)
        for first in tl.range(0, E, BLOCK_I, disable_licm=True):
            seen = first + channel < E
            left_ptr = rows_ptr + h * rows_stride_h + first + rows[:, None] + channel[None, :]
            left = tl.load(left_ptr, mask=rows_exist[:, None] & seen[None, :], other=0)
            right_ptr = columns_ptr + h * columns_stride_h + first + columns[None, :] + channel[:, None]
            right = tl.load(right_ptr, mask=columns_exist[None, :] & seen[:, None], other=0)
            product = tl.dot(left, right, product, input_precision=PRECISION, out_dtype=SUMS)
        products = products + (FACTOR * product,)
    return products


@triton.jit
def _mixed(tiles, weight_ptr, bias_ptr, step, stride_out: tl.constexpr, stride_in: tl.constexpr, H: tl.constexpr):
    """Every head's sum of all heads, weighed by ``weight_ptr`` [H, H] (out, in: by its strides), plus its bias if any.

    Weights and biases are repeated for every ``step`` of a loop: if all steps read the same address, the compiler would
    load them ahead of the loop, and a hundred registers would hold nothing else. (For the same reason most
    loops are not to have anything moved out, ``disable_licm``, and rows' numbers are loaded inside of them.)
    """
    weight_ptr += step * H * H
    mixed = ()
    for g in tl.static_range(H):
        total = tiles[0] * tl.load(weight_ptr + g * stride_out)
        for h in tl.static_range(1, H):
            total += tiles[h] * tl.load(weight_ptr + g * stride_out + h * stride_in)
        if bias_ptr is not None:
            total += tl.load(bias_ptr + step * H + g)
        mixed = mixed + (total,)
    return mixed


@triton.jit
def _of_rows(values_ptr, position, N: tl.constexpr, H: tl.constexpr, AXIS: tl.constexpr):
    """Every head's numbers of these rows, from [H, N], to be broadcast along AXIS."""
    values = ()
    for h in tl.static_range(H):
        values = values + (tl.expand_dims(tl.load(values_ptr + h * N + position, mask=position < N, other=0), AXIS),)
    return values


@triton.jit
def _probabilities(mixed_logits, logsumexp, keys_exist, H: tl.constexpr):
    probabilities = ()
    for h in tl.static_range(H):
        probabilities = probabilities + (tl.where(keys_exist, tl.exp(mixed_logits[h] - logsumexp[h]), 0.0),)
    return probabilities


@triton.jit
def _softmax_gradients(probabilities, gradients, row_sums, H: tl.constexpr):
    result = ()
    for h in tl.static_range(H):
        result = result + (probabilities[h] * (gradients[h] - row_sums[h]),)
    return result


@triton.jit
def _less(tiles, others, H: tl.constexpr):
    result = ()
    for h in tl.static_range(H):
        result = result + (tiles[h] - others[h],)
    return result


@triton.jit
def _times(tiles, others, H: tl.constexpr):
    result = ()
    for h in tl.static_range(H):
        result = result + (tiles[h] * others[h],)
    return result


@triton.jit
def _zeros(ROWS: tl.constexpr, COLUMNS: tl.constexpr, H: tl.constexpr, SUMS: tl.constexpr):
    zeros = ()
    for _ in tl.static_range(H):
        zeros = zeros + (tl.zeros((ROWS, COLUMNS), SUMS),)
    return zeros


@triton.jit
def _plus_products(
    sums, tiles, rows_ptr, rows, rows_exist, rows_stride_h, FACTOR: tl.constexpr, H: tl.constexpr, E: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """Every head's ``sums + FACTOR * tiles @ rows``; the tiles are rounded to the dtype of the rows."""
    channel = tl.arange(0, BLOCK_E)
    exist = rows_exist[:, None] & (channel < E)[None, :]
    result = ()
    for h in tl.static_range(H):
        right = tl.load(rows_ptr + h * rows_stride_h + rows[:, None] + channel[None, :], mask=exist, other=0)
        left = (FACTOR * tiles[h]).to(right.dtype)
        result = result + (tl.dot(left, right, sums[h], input_precision=PRECISION, out_dtype=sums[h].dtype),)
    return result


@triton.jit
def _store(
    result_ptr, rows, rows_exist, stride_h: tl.constexpr, tiles, H: tl.constexpr, E: tl.constexpr, BLOCK_E: tl.constexpr
):
    channel = tl.arange(0, BLOCK_E)
    exist = rows_exist[:, None] & (channel < E)[None, :]
    for h in tl.static_range(H):
        to_ptr = result_ptr + h * stride_h + rows[:, None] + channel[None, :]
        tl.store(to_ptr, tiles[h].to(result_ptr.dtype.element_ty), mask=exist)


@triton.jit
def _forward_kernel(
    query_ptr, key_ptr, value_ptr, stride_b, stride_n, stride_h, pre_weight_ptr, post_weight_ptr, post_bias_ptr,
    result_ptr, logsumexp_ptr, SCALE: tl.constexpr, N: tl.constexpr, H: tl.constexpr, E: tl.constexpr,
    SUMS: tl.constexpr, PRECISION: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_I: tl.constexpr,
    BLOCK_E: tl.constexpr,
):  # fmt: skip
    """BLOCK_Q rows of one sample."""
    blocks = tl.cdiv(N, BLOCK_Q)
    sample, first = tl.program_id(0) // blocks, tl.program_id(0) % blocks * BLOCK_Q
    of_sample = sample.to(tl.int64) * stride_b
    queries, queries_exist = _rows(first, stride_n, N, BLOCK_Q)
    most, mass = (), ()
    for _ in tl.static_range(H):
        most = most + (tl.full((BLOCK_Q,), float("-inf"), SUMS),)
        mass = mass + (tl.zeros((BLOCK_Q,), SUMS),)
    for start in tl.range(0, N, BLOCK_K, disable_licm=True):
        keys, keys_exist = _rows(start, stride_n, N, BLOCK_K)
        logits = _products(
            query_ptr + of_sample, queries, queries_exist, stride_h, key_ptr + of_sample, keys, keys_exist, stride_h,
            SCALE, H, E, SUMS, PRECISION, BLOCK_I,
        )  # fmt: skip
        mixed = _mixed(logits, pre_weight_ptr, None, start // BLOCK_K, H, 1, H)
        in_row = (start + tl.arange(0, BLOCK_K) < N)[None, :]
        new_most, new_mass = (), ()
        for h in tl.static_range(H):
            seen = tl.where(in_row, mixed[h], float("-inf"))
            raised = tl.maximum(most[h], tl.max(seen, 1))
            new_mass = new_mass + (mass[h] * tl.exp(most[h] - raised) + tl.sum(tl.exp(seen - raised[:, None]), 1),)
            new_most = new_most + (raised,)
        most, mass = new_most, new_mass
    position = first + tl.arange(0, BLOCK_Q)
    logsumexp = ()
    for h in tl.static_range(H):
        value = most[h] + tl.log(mass[h])
        tl.store(logsumexp_ptr + (sample.to(tl.int64) * H + h) * N + position, value, mask=position < N)
        logsumexp = logsumexp + (value[:, None],)
    result = _zeros(BLOCK_Q, BLOCK_E, H, SUMS)
    for start in tl.range(0, N, BLOCK_K, disable_licm=True):
        keys, keys_exist = _rows(start, stride_n, N, BLOCK_K)
        logits = _products(
            query_ptr + of_sample, queries, queries_exist, stride_h, key_ptr + of_sample, keys, keys_exist, stride_h,
            SCALE, H, E, SUMS, PRECISION, BLOCK_I,
        )  # fmt: skip
        in_row = (start + tl.arange(0, BLOCK_K) < N)[None, :]
        probabilities = _probabilities(
            _mixed(logits, pre_weight_ptr, None, start // BLOCK_K, H, 1, H), logsumexp, in_row, H
        )
        attention = _mixed(probabilities, post_weight_ptr, post_bias_ptr, start // BLOCK_K, H, 1, H)
        values, values_exist = _rows(start, stride_n, N, BLOCK_K)
        result = _plus_products(
            result, attention, value_ptr + of_sample, values, values_exist, stride_h, 1.0, H, E, PRECISION, BLOCK_E
        )
    rows, _ = _rows(first, H * E, N, BLOCK_Q)
    _store(result_ptr + sample.to(tl.int64) * N * H * E, rows, queries_exist, E, result, H, E, BLOCK_E)


@triton.jit
def _row_sums_kernel(
    query_ptr, key_ptr, value_ptr, stride_b, stride_n, stride_h, grad_ptr, grad_stride_b, grad_stride_n, grad_stride_h,
    pre_weight_ptr, post_weight_ptr, logsumexp_ptr, row_sums_ptr,
    SCALE: tl.constexpr, N: tl.constexpr, H: tl.constexpr, E: tl.constexpr,
    SUMS: tl.constexpr, PRECISION: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_I: tl.constexpr,
    BLOCK_E: tl.constexpr,
):  # fmt: skip
    """BLOCK_Q rows of one sample: the sums [H, N] of probability times gradient that the softmax's backward pass needs."""
    blocks = tl.cdiv(N, BLOCK_Q)
    sample, first = tl.program_id(0) // blocks, tl.program_id(0) % blocks * BLOCK_Q
    of_sample, of_rows = sample.to(tl.int64) * stride_b, sample.to(tl.int64) * H * N
    position = first + tl.arange(0, BLOCK_Q)
    queries, queries_exist = _rows(first, stride_n, N, BLOCK_Q)
    grads, _ = _rows(first, grad_stride_n, N, BLOCK_Q)
    logsumexp = _of_rows(logsumexp_ptr + of_rows, position, N, H, 1)
    row_sums = _zeros(BLOCK_Q, 1, H, SUMS)
    for start in range(0, N, BLOCK_K):
        keys, keys_exist = _rows(start, stride_n, N, BLOCK_K)
        in_row = (start + tl.arange(0, BLOCK_K) < N)[None, :]
        logits = _products(
            query_ptr + of_sample, queries, queries_exist, stride_h, key_ptr + of_sample, keys, keys_exist, stride_h,
            SCALE, H, E, SUMS, PRECISION, BLOCK_I,
        )  # fmt: skip
        probabilities = _probabilities(
            _mixed(logits, pre_weight_ptr, None, start // BLOCK_K, H, 1, H), logsumexp, in_row, H
        )
        grad_attention = _products(
            grad_ptr + sample.to(tl.int64) * grad_stride_b, grads, queries_exist, grad_stride_h,
            value_ptr + of_sample, keys, keys_exist, stride_h, 1.0, H, E, SUMS, PRECISION, BLOCK_I,
        )  # fmt: skip
        gradients = _mixed(grad_attention, post_weight_ptr, None, start // BLOCK_K, 1, H, H)
        more = ()
        for h in tl.static_range(H):
            more = more + (row_sums[h] + tl.sum(probabilities[h] * gradients[h], 1, keep_dims=True),)
        row_sums = more
    for h in tl.static_range(H):
        tl.store(row_sums_ptr + of_rows + h * N + position[:, None], row_sums[h], mask=(position < N)[:, None])


@triton.jit
def _query_gradient_kernel(
    query_ptr, key_ptr, value_ptr, stride_b, stride_n, stride_h, grad_ptr, grad_stride_b, grad_stride_n, grad_stride_h,
    pre_weight_ptr, post_weight_ptr, logsumexp_ptr, row_sums_ptr, grad_query_ptr,
    SCALE: tl.constexpr, N: tl.constexpr, H: tl.constexpr, E: tl.constexpr,
    SUMS: tl.constexpr, PRECISION: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_I: tl.constexpr,
    BLOCK_E: tl.constexpr,
):  # fmt: skip
    """The gradients of BLOCK_Q queries of one sample."""
    blocks = tl.cdiv(N, BLOCK_Q)
    sample, first = tl.program_id(0) // blocks, tl.program_id(0) % blocks * BLOCK_Q
    of_sample, of_rows = sample.to(tl.int64) * stride_b, sample.to(tl.int64) * H * N
    position = first + tl.arange(0, BLOCK_Q)
    queries, queries_exist = _rows(first, stride_n, N, BLOCK_Q)
    grads, _ = _rows(first, grad_stride_n, N, BLOCK_Q)
    result = _zeros(BLOCK_Q, BLOCK_E, H, SUMS)
    for start in tl.range(0, N, BLOCK_K, disable_licm=True):
        keys, keys_exist = _rows(start, stride_n, N, BLOCK_K)
        in_row = (start + tl.arange(0, BLOCK_K) < N)[None, :]
        logits = _products(
            query_ptr + of_sample, queries, queries_exist, stride_h, key_ptr + of_sample, keys, keys_exist, stride_h,
            SCALE, H, E, SUMS, PRECISION, BLOCK_I,
        )  # fmt: skip
        logsumexp = _of_rows(logsumexp_ptr + of_rows, position, N, H, 1)
        probabilities = _probabilities(
            _mixed(logits, pre_weight_ptr, None, start // BLOCK_K, H, 1, H), logsumexp, in_row, H
        )
        grad_attention = _products(
            grad_ptr + sample.to(tl.int64) * grad_stride_b, grads, queries_exist, grad_stride_h,
            value_ptr + of_sample, keys, keys_exist, stride_h, 1.0, H, E, SUMS, PRECISION, BLOCK_I,
        )  # fmt: skip
        gradients = _mixed(grad_attention, post_weight_ptr, None, start // BLOCK_K, 1, H, H)
        row_sums = _of_rows(row_sums_ptr + of_rows, position, N, H, 1)
        grad_mixed = _softmax_gradients(probabilities, gradients, row_sums, H)
        grad_logits = _mixed(grad_mixed, pre_weight_ptr, None, start // BLOCK_K, 1, H, H)
        key_rows, key_rows_exist = _rows(start, stride_n, N, BLOCK_K)
        result = _plus_products(
            result,
            grad_logits,
            key_ptr + of_sample,
            key_rows,
            key_rows_exist,
            stride_h,
            SCALE,
            H,
            E,
            PRECISION,
            BLOCK_E,
        )
    rows, _ = _rows(first, 3 * H * E, N, BLOCK_Q)
    _store(grad_query_ptr + sample.to(tl.int64) * N * 3 * H * E, rows, queries_exist, E, result, H, E, BLOCK_E)


@triton.jit
def _value_gradient_kernel(
    query_ptr, key_ptr, stride_b, stride_n, stride_h, grad_ptr, grad_stride_b, grad_stride_n, grad_stride_h,
    pre_weight_ptr, post_weight_ptr, post_bias_ptr, logsumexp_ptr, grad_value_ptr,
    SCALE: tl.constexpr, N: tl.constexpr, H: tl.constexpr, E: tl.constexpr,
    SUMS: tl.constexpr, PRECISION: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_I: tl.constexpr,
    BLOCK_E: tl.constexpr,
):  # fmt: skip
    """The gradients of BLOCK_K values of one sample. Tiles are transposed: a key is a row."""
    blocks = tl.cdiv(N, BLOCK_K)
    sample, first = tl.program_id(0) // blocks, tl.program_id(0) % blocks * BLOCK_K
    of_sample, of_rows = sample.to(tl.int64) * stride_b, sample.to(tl.int64) * H * N
    keys, keys_exist = _rows(first, stride_n, N, BLOCK_K)
    in_row = (first + tl.arange(0, BLOCK_K) < N)[:, None]
    result = _zeros(BLOCK_K, BLOCK_E, H, SUMS)
    for start in tl.range(0, N, BLOCK_Q, disable_licm=True):
        queries, queries_exist = _rows(start, stride_n, N, BLOCK_Q)
        logsumexp = _of_rows(logsumexp_ptr + of_rows, start + tl.arange(0, BLOCK_Q), N, H, 0)
        logits = _products(
            key_ptr + of_sample, keys, keys_exist, stride_h, query_ptr + of_sample, queries, queries_exist, stride_h,
            SCALE, H, E, SUMS, PRECISION, BLOCK_I,
        )  # fmt: skip
        probabilities = _probabilities(
            _mixed(logits, pre_weight_ptr, None, start // BLOCK_Q, H, 1, H), logsumexp, in_row, H
        )
        attention = _mixed(probabilities, post_weight_ptr, post_bias_ptr, start // BLOCK_Q, H, 1, H)
        grads, grads_exist = _rows(start, grad_stride_n, N, BLOCK_Q)
        result = _plus_products(
            result, attention, grad_ptr + sample.to(tl.int64) * grad_stride_b, grads, grads_exist, grad_stride_h,
            1.0, H, E, PRECISION, BLOCK_E,
        )  # fmt: skip
    rows, _ = _rows(first, 3 * H * E, N, BLOCK_K)
    _store(grad_value_ptr + sample.to(tl.int64) * N * 3 * H * E, rows, keys_exist, E, result, H, E, BLOCK_E)


@triton.jit
def _key_gradient_kernel(
    query_ptr, key_ptr, value_ptr, stride_b, stride_n, stride_h, grad_ptr, grad_stride_b, grad_stride_n, grad_stride_h,
    pre_weight_ptr, post_weight_ptr, logsumexp_ptr, row_sums_ptr, grad_key_ptr,
    SCALE: tl.constexpr, N: tl.constexpr, H: tl.constexpr, E: tl.constexpr,
    SUMS: tl.constexpr, PRECISION: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_I: tl.constexpr,
    BLOCK_E: tl.constexpr,
):  # fmt: skip
    """The gradients of BLOCK_K keys of one sample. Tiles are transposed: a key is a row."""
    blocks = tl.cdiv(N, BLOCK_K)
    sample, first = tl.program_id(0) // blocks, tl.program_id(0) % blocks * BLOCK_K
    of_sample, of_rows = sample.to(tl.int64) * stride_b, sample.to(tl.int64) * H * N
    keys, keys_exist = _rows(first, stride_n, N, BLOCK_K)
    in_row = (first + tl.arange(0, BLOCK_K) < N)[:, None]
    result = _zeros(BLOCK_K, BLOCK_E, H, SUMS)
    for start in tl.range(0, N, BLOCK_Q, disable_licm=True):
        position = start + tl.arange(0, BLOCK_Q)
        queries, queries_exist = _rows(start, stride_n, N, BLOCK_Q)
        grads, grads_exist = _rows(start, grad_stride_n, N, BLOCK_Q)
        grad_attention = _products(
            value_ptr + of_sample, keys, keys_exist, stride_h,
            grad_ptr + sample.to(tl.int64) * grad_stride_b, grads, grads_exist, grad_stride_h, 1.0, H, E, SUMS, PRECISION, BLOCK_I,
        )  # fmt: skip
        gradients = _mixed(grad_attention, post_weight_ptr, None, start // BLOCK_Q, 1, H, H)
        row_sums = _of_rows(row_sums_ptr + of_rows, position, N, H, 0)
        # At once, which frees the row sums' registers: the order of this kernel is that which spills nothing.
        gradients = _less(gradients, row_sums, H)
        logits = _products(
            key_ptr + of_sample, keys, keys_exist, stride_h, query_ptr + of_sample, queries, queries_exist, stride_h,
            SCALE, H, E, SUMS, PRECISION, BLOCK_I,
        )  # fmt: skip
        logsumexp = _of_rows(logsumexp_ptr + of_rows, position, N, H, 0)
        probabilities = _probabilities(
            _mixed(logits, pre_weight_ptr, None, start // BLOCK_Q, H, 1, H), logsumexp, in_row, H
        )
        grad_mixed = _times(probabilities, gradients, H)
        grad_logits = _mixed(grad_mixed, pre_weight_ptr, None, start // BLOCK_Q, 1, H, H)
        query_rows, query_rows_exist = _rows(start, stride_n, N, BLOCK_Q)
        result = _plus_products(
            result,
            grad_logits,
            query_ptr + of_sample,
            query_rows,
            query_rows_exist,
            stride_h,
            SCALE,
            H,
            E,
            PRECISION,
            BLOCK_E,
        )
    rows, _ = _rows(first, 3 * H * E, N, BLOCK_K)
    _store(grad_key_ptr + sample.to(tl.int64) * N * 3 * H * E, rows, keys_exist, E, result, H, E, BLOCK_E)


@triton.jit
def _parameter_gradient_kernel(
    query_ptr, key_ptr, value_ptr, stride_b, stride_n, stride_h, grad_ptr, grad_stride_b, grad_stride_n, grad_stride_h,
    pre_weight_ptr, post_weight_ptr, logsumexp_ptr, row_sums_ptr, parts_ptr,
    SCALE: tl.constexpr, N: tl.constexpr, H: tl.constexpr, E: tl.constexpr,
    SUMS: tl.constexpr, PRECISION: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_I: tl.constexpr,
    BLOCK_E: tl.constexpr,
):  # fmt: skip
    """One tile's sums: parts_ptr [programs, 2 H + 1, H], for pre_weight, post_weight and post_bias."""
    blocks_q, blocks_k = tl.cdiv(N, BLOCK_Q), tl.cdiv(N, BLOCK_K)
    sample, tile = tl.program_id(0) // (blocks_q * blocks_k), tl.program_id(0) % (blocks_q * blocks_k)
    first, start = tile // blocks_k * BLOCK_Q, tile % blocks_k * BLOCK_K
    of_sample, of_rows = sample.to(tl.int64) * stride_b, sample.to(tl.int64) * H * N
    position = first + tl.arange(0, BLOCK_Q)
    queries, queries_exist = _rows(first, stride_n, N, BLOCK_Q)
    grads, _ = _rows(first, grad_stride_n, N, BLOCK_Q)
    keys, keys_exist = _rows(start, stride_n, N, BLOCK_K)
    in_row = (start + tl.arange(0, BLOCK_K) < N)[None, :]
    logits = _products(
        query_ptr + of_sample, queries, queries_exist, stride_h, key_ptr + of_sample, keys, keys_exist, stride_h,
        SCALE, H, E, SUMS, PRECISION, BLOCK_I,
    )  # fmt: skip
    logsumexp = _of_rows(logsumexp_ptr + of_rows, position, N, H, 1)
    probabilities = _probabilities(_mixed(logits, pre_weight_ptr, None, 0, H, 1, H), logsumexp, in_row, H)
    grad_attention = _products(
        grad_ptr + sample.to(tl.int64) * grad_stride_b, grads, queries_exist, grad_stride_h,
        value_ptr + of_sample, keys, keys_exist, stride_h, 1.0, H, E, SUMS, PRECISION, BLOCK_I,
    )  # fmt: skip
    part_ptr = parts_ptr + tl.program_id(0).to(tl.int64) * (2 * H + 1) * H
    for g in tl.static_range(H):
        for h in tl.static_range(H):
            tl.store(part_ptr + (H + g) * H + h, tl.sum(grad_attention[g] * probabilities[h]))
        tl.store(part_ptr + 2 * H * H + g, tl.sum(grad_attention[g]))
    gradients = _mixed(grad_attention, post_weight_ptr, None, 0, 1, H, H)
    row_sums = _of_rows(row_sums_ptr + of_rows, position, N, H, 1)
    grad_mixed = _softmax_gradients(probabilities, gradients, row_sums, H)
    for g in tl.static_range(H):
        for h in tl.static_range(H):
            tl.store(part_ptr + g * H + h, tl.sum(grad_mixed[g] * logits[h]))


def talking_heads_attention(
    qkv: Tensor, pre_weight: Tensor, pre_bias: Tensor, post_weight: Tensor, post_bias: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """``mixfast::talking_heads_attention``: the result ``[B, N, h, e]`` and the log-sum-exp ``[B, h, N]``."""
    if not _takes(qkv):
        return talking_heads_attention_reference(qkv, pre_weight, pre_bias, post_weight, post_bias, scale)
    batch, count, _, heads, width = qkv.shape
    sums = torch.promote_types(qkv.dtype, torch.float32)
    result = qkv.new_empty((batch, count, heads, width))
    logsumexp = qkv.new_empty((batch, heads, count), dtype=sums)
    parts, strides = _parts(qkv)
    constants = _constants(qkv, scale)
    with torch.cuda.device_of(qkv):
        blocks = _blocks(qkv, "queries")
        weights = _repeated((pre_weight, post_weight, post_bias), sums, count)
        grid = (batch * triton.cdiv(count, blocks["BLOCK_Q"]),)
        _forward_kernel[grid](*parts, *strides, *weights, result, logsumexp, **constants, **blocks)
    return result, logsumexp


def talking_heads_attention_backward(
    grad: Tensor,
    qkv: Tensor,
    logsumexp: Tensor,
    pre_weight: Tensor,
    post_weight: Tensor,
    post_bias: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``mixfast::talking_heads_attention_backward``: gradients of qkv, pre_weight, post_weight and post_bias."""
    if not _takes(qkv):
        return talking_heads_attention_backward_reference(
            grad, qkv, logsumexp, pre_weight, post_weight, post_bias, scale
        )
    batch, count, _, heads, width = qkv.shape
    sums = logsumexp.dtype
    grad = _with_near_rows(grad)
    logsumexp = logsumexp.contiguous()
    row_sums, grad_qkv = torch.empty_like(logsumexp), qkv.new_empty(qkv.shape)
    grad_query, grad_key, grad_value = grad_qkv.unbind(2)
    (query, key, value), strides = _parts(qkv)
    given = (*strides, grad, *grad.stride()[:3])
    constants = _constants(qkv, scale)
    with torch.cuda.device_of(qkv):
        pre, post, bias = _repeated((pre_weight, post_weight, post_bias), sums, count)
        blocks = _blocks(qkv, "queries")
        grid = (batch * triton.cdiv(count, blocks["BLOCK_Q"]),)
        _row_sums_kernel[grid](query, key, value, *given, pre, post, logsumexp, row_sums, **constants, **blocks)
        _query_gradient_kernel[grid](
            query, key, value, *given, pre, post, logsumexp, row_sums, grad_query, **constants, **blocks
        )
        blocks = _blocks(qkv, "keys")
        grid = (batch * triton.cdiv(count, blocks["BLOCK_K"]),)
        _key_gradient_kernel[grid](
            query, key, value, *given, pre, post, logsumexp, row_sums, grad_key, **constants, **blocks
        )
        _value_gradient_kernel[grid](query, key, *given, pre, post, bias, logsumexp, grad_value, **constants, **blocks)
        blocks = _blocks(qkv, "queries")
        grid = (batch * triton.cdiv(count, blocks["BLOCK_Q"]) * triton.cdiv(count, blocks["BLOCK_K"]),)
        parts = qkv.new_empty((*grid, 2 * heads + 1, heads), dtype=sums)
        _parameter_gradient_kernel[grid](
            query, key, value, *given, pre, post, logsumexp, row_sums, parts, **constants, **blocks
        )
        total = parts.sum(0)
    # Copies: results of an operator do not share memory.
    return (
        grad_qkv,
        total[:heads].to(pre_weight.dtype, copy=True),
        total[heads : 2 * heads].to(post_weight.dtype, copy=True),
        total[2 * heads].to(post_bias.dtype, copy=True),
    )


def _repeated(parameters: tuple[Tensor, ...], dtype: torch.dtype, count: int) -> list[Tensor]:
    """Each parameter once for every step that a kernel's loop over tokens may take: see ``_mixed``."""
    steps = triton.cdiv(count, MIN_BLOCK)
    return [value.to(dtype).expand(steps, *value.shape).contiguous() for value in parameters]


def _takes(qkv: Tensor) -> bool:
    _, count, parts, heads, width = qkv.shape
    fits = heads <= MAX_HEADS and width <= MAX_WIDTH and count * parts * heads * width < MAX_EXTENT
    return qkv.numel() > 0 and fits


def _parts(qkv: Tensor) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """Queries, keys and values, channels side by side, and their strides from sample, token and head to the next."""
    qkv = _with_near_rows(qkv)
    return qkv.unbind(2), (qkv.stride(0), qkv.stride(1), qkv.stride(3))


def _with_near_rows(tensor: Tensor) -> Tensor:
    """As it is (any strides of samples, tokens and heads), or a copy where channels do not lie side by side, or where a sample's
    extent passes the 32 bits in which a kernel counts there."""
    extent = sum((size - 1) * stride for size, stride in zip(tensor.shape[1:], tensor.stride()[1:], strict=True))
    return tensor if tensor.stride(-1) == 1 and extent < MAX_EXTENT else tensor.contiguous()


def _constants(qkv: Tensor, scale: float) -> dict[str, Any]:
    _, count, _, heads, width = qkv.shape
    return {
        "SCALE": scale,
        "N": count,
        "H": heads,
        "E": width,
        "SUMS": sums_of(qkv.dtype),
        # Float32 in three products of TF32, whose error is about that of float32: without tensor cores the operands of so
        # many products do not fit into registers.
        "PRECISION": "tf32x3"
        if products_of(qkv.dtype) == "ieee" and qkv.dtype == torch.float32
        else products_of(qkv.dtype),
        "BLOCK_I": BLOCK_I,
        "BLOCK_E": max(triton.next_power_of_2(width), 16),
    }


def _blocks(qkv: Tensor, rows: str) -> dict[str, int]:
    """For a kernel whose programs take rows of ``"queries"`` or of ``"keys"``."""
    short, long = BLOCKS[qkv.element_size()]
    queries, keys = (short, long) if rows == "queries" else (long, short)
    return {"BLOCK_Q": queries, "BLOCK_K": keys, "num_warps": WARPS, "num_stages": 1}


def aot_cases() -> list[Case]:
    """What ``tools/aot.py`` compiles and measures: CaiT-XXS-24 and CaiT-XS-24 on CIFAR and ImageNet-100."""
    cases = []
    for name, (batch, count, heads, width), dtype in (
        ("CaiT-XXS, CIFAR", (128, 64, 4, 48), torch.bfloat16),
        ("CaiT-XS, ImageNet-100", (64, 196, 6, 48), torch.float16),
        ("CaiT-XS, CIFAR", (128, 64, 6, 48), torch.float32),
    ):
        sums = torch.promote_types(dtype, torch.float32)
        qkv, grad = meta(batch, count, 3, heads, width, dtype=dtype), meta(batch, count, heads, width, dtype=dtype)
        square, row, logsumexp = meta(heads, heads), meta(heads), meta(batch, heads, count, dtype=sums)
        label, scale = f"{str(dtype).removeprefix('torch.')}, {name}", width**-0.5
        flops = 4 * batch * count * count * heads * width
        forward = functools.partial(talking_heads_attention, qkv, square, row, square, row, scale)
        floor = nbytes(qkv, grad, logsumexp)
        cases.append(Case(f"talking_heads_attention: forward, {label}", forward, floor, flops, dtype))
        backward = functools.partial(talking_heads_attention_backward, grad, qkv, logsumexp, square, square, row, scale)
        floor += nbytes(qkv)
        cases.append(Case(f"talking_heads_attention: backward, {label}", backward, floor, 2 * flops, dtype))
    return cases
