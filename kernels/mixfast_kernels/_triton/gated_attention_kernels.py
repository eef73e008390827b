"""The kernels of gated_positional_attention: blocks of the N x N matrices live in registers only.

Dimensions: B samples, N tokens, H heads, E channels a head; a tile has BLOCK_M queries and BLOCK_N keys.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _rows(pointer, token, channel, stride_n, N: tl.constexpr, E: tl.constexpr):
    """The channels of some tokens of a head, ``[tokens, channels]``; zeros past the last of either."""
    exists = (token < N)[:, None] & (channel < E)[None, :]
    return tl.load(pointer + token.to(tl.int64)[:, None] * stride_n + channel[None, :], mask=exists, other=0)


@triton.jit
def _put_rows(pointer, values, token, channel, stride_n, N: tl.constexpr, E: tl.constexpr):
    exists = (token < N)[:, None] & (channel < E)[None, :]
    target_ptr = pointer + token.to(tl.int64)[:, None] * stride_n + channel[None, :]
    tl.store(target_ptr, values.to(pointer.dtype.element_ty), mask=exists)


@triton.jit
def _scores(queries, keys, key, N: tl.constexpr, SCALE: tl.constexpr, SUMS: tl.constexpr, PRECISION: tl.constexpr):
    """``[queries, keys]``; minus infinity past the last key."""
    scores = tl.dot(queries, tl.trans(keys), input_precision=PRECISION, out_dtype=SUMS) * SCALE
    return tl.where((key < N)[None, :], scores, float("-inf"))


@triton.jit
def _combined(content, gate, positional_ptr, head, query, key, N: tl.constexpr):
    """The gated sum of the softmax and the positional matrix."""
    exists = (query < N)[:, None] & (key < N)[None, :]
    place_ptr = positional_ptr + (head * N + query)[:, None] * N + key[None, :]
    return (1 - gate) * content + gate * tl.load(place_ptr, mask=exists, other=0).to(content.dtype)


@triton.jit
def forward_kernel(
    qkv_ptr, positional_ptr, gate_ptr, result_ptr, logsumexp_ptr, stride_b, stride_n, stride_p, stride_h,
    N: tl.constexpr, H: tl.constexpr, E: tl.constexpr, SCALE: tl.constexpr, SUMS: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """BLOCK_M queries of a head of a sample."""
    blocks = tl.cdiv(N, BLOCK_M)
    query = tl.program_id(0) % blocks * BLOCK_M + tl.arange(0, BLOCK_M)
    head = (tl.program_id(0) // blocks % H).to(tl.int64)
    sample = (tl.program_id(0) // (blocks * H)).to(tl.int64)
    channel, key = tl.arange(0, BLOCK_E), tl.arange(0, BLOCK_N)
    qkv_ptr += sample * stride_b + head * stride_h
    queries = _rows(qkv_ptr, query, channel, stride_n, N, E)
    keys = _rows(qkv_ptr + stride_p, key, channel, stride_n, N, E)
    scores = _scores(queries, keys, key, N, SCALE, SUMS, PRECISION)
    largest = tl.max(scores, 1)
    total = tl.sum(tl.exp(scores - largest[:, None]), 1)
    for start in range(BLOCK_N, N, BLOCK_N):
        keys = _rows(qkv_ptr + stride_p, start + key, channel, stride_n, N, E)
        more = _scores(queries, keys, start + key, N, SCALE, SUMS, PRECISION)
        higher = tl.maximum(largest, tl.max(more, 1))
        total = total * tl.exp(largest - higher) + tl.sum(tl.exp(more - higher[:, None]), 1)
        largest = higher
    logsumexp = largest + tl.log(total)
    gate = tl.load(gate_ptr + head).to(SUMS)
    result = tl.zeros((BLOCK_M, BLOCK_E), SUMS)
    for start in range(0, N, BLOCK_N):
        if N > BLOCK_N:
            keys = _rows(qkv_ptr + stride_p, start + key, channel, stride_n, N, E)
            scores = _scores(queries, keys, start + key, N, SCALE, SUMS, PRECISION)
        content = tl.exp(scores - logsumexp[:, None])
        combined = _combined(content, gate, positional_ptr, head, query, start + key, N)
        values = _rows(qkv_ptr + 2 * stride_p, start + key, channel, stride_n, N, E)
        result = tl.dot(combined.to(values.dtype), values, result, input_precision=PRECISION, out_dtype=SUMS)
    _put_rows(result_ptr + (sample * N * H + head) * E, result, query, channel, H * E, N, E)
    tl.store(logsumexp_ptr + (sample * H + head) * N + query, logsumexp, mask=query < N)


@triton.jit
def whole_gradient_kernel(
    grad_ptr, qkv_ptr, positional_ptr, gate_ptr, logsumexp_ptr, grad_qkv_ptr, seen_ptr,
    grad_stride_b, grad_stride_n, grad_stride_h, stride_b, stride_n, stride_p, stride_h,
    N: tl.constexpr, H: tl.constexpr, E: tl.constexpr, SCALE: tl.constexpr, SUMS: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """All gradients of a head of a sample, whose tokens fit BLOCK_M and BLOCK_N, and what the softmax saw of the gradient."""
    head, sample = (tl.program_id(0) % H).to(tl.int64), (tl.program_id(0) // H).to(tl.int64)
    query, key, channel = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_E)
    qkv_ptr += sample * stride_b + head * stride_h
    queries = _rows(qkv_ptr, query, channel, stride_n, N, E)
    keys = _rows(qkv_ptr + stride_p, key, channel, stride_n, N, E)
    values = _rows(qkv_ptr + 2 * stride_p, key, channel, stride_n, N, E)
    grad = _rows(grad_ptr + sample * grad_stride_b + head * grad_stride_h, query, channel, grad_stride_n, N, E)
    row = (sample * H + head) * N + query
    logsumexp = tl.load(logsumexp_ptr + row, mask=query < N, other=0)
    gate = tl.load(gate_ptr + head).to(SUMS)
    content = tl.exp(_scores(queries, keys, key, N, SCALE, SUMS, PRECISION) - logsumexp[:, None])
    combined = _combined(content, gate, positional_ptr, head, query, key, N).to(grad.dtype)
    grad_values = tl.dot(tl.trans(combined), grad, input_precision=PRECISION, out_dtype=SUMS)
    grad_qkv_ptr += (sample * N * 3 * H + head) * E
    _put_rows(grad_qkv_ptr + 2 * H * E, grad_values, key, channel, 3 * H * E, N, E)
    grad_combined = tl.dot(grad, tl.trans(values), input_precision=PRECISION, out_dtype=SUMS)
    seen = tl.sum(content * grad_combined, 1)
    tl.store(seen_ptr + row, seen, mask=query < N)
    grad_scores = ((1 - gate) * content * (grad_combined - seen[:, None])).to(grad.dtype)
    grad_queries = tl.dot(grad_scores, keys, input_precision=PRECISION, out_dtype=SUMS) * SCALE
    _put_rows(grad_qkv_ptr, grad_queries, query, channel, 3 * H * E, N, E)
    grad_keys = tl.dot(tl.trans(grad_scores), queries, input_precision=PRECISION, out_dtype=SUMS) * SCALE
    _put_rows(grad_qkv_ptr + H * E, grad_keys, key, channel, 3 * H * E, N, E)


@triton.jit
def queries_gradient_kernel(
    grad_ptr, qkv_ptr, positional_ptr, gate_ptr, logsumexp_ptr, grad_qkv_ptr, seen_ptr,
    grad_stride_b, grad_stride_n, grad_stride_h, stride_b, stride_n, stride_p, stride_h,
    N: tl.constexpr, H: tl.constexpr, E: tl.constexpr, SCALE: tl.constexpr, SUMS: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """The gradients of BLOCK_M queries of a head of a sample, and what their softmax saw of the gradient."""
    blocks = tl.cdiv(N, BLOCK_M)
    query = tl.program_id(0) % blocks * BLOCK_M + tl.arange(0, BLOCK_M)
    head = (tl.program_id(0) // blocks % H).to(tl.int64)
    sample = (tl.program_id(0) // (blocks * H)).to(tl.int64)
    channel, key = tl.arange(0, BLOCK_E), tl.arange(0, BLOCK_N)
    qkv_ptr += sample * stride_b + head * stride_h
    queries = _rows(qkv_ptr, query, channel, stride_n, N, E)
    grad_ptr += sample * grad_stride_b + head * grad_stride_h
    grad = _rows(grad_ptr, query, channel, grad_stride_n, N, E)
    row = (sample * H + head) * N + query
    logsumexp = tl.load(logsumexp_ptr + row, mask=query < N, other=0)
    gate = tl.load(gate_ptr + head).to(SUMS)
    seen = tl.zeros((BLOCK_M,), SUMS)
    for start in range(0, N, BLOCK_N):
        keys = _rows(qkv_ptr + stride_p, start + key, channel, stride_n, N, E)
        values = _rows(qkv_ptr + 2 * stride_p, start + key, channel, stride_n, N, E)
        content = tl.exp(_scores(queries, keys, start + key, N, SCALE, SUMS, PRECISION) - logsumexp[:, None])
        grad_combined = tl.dot(grad, tl.trans(values), input_precision=PRECISION, out_dtype=SUMS)
        seen += tl.sum(content * grad_combined, 1)
    grad_queries = tl.zeros((BLOCK_M, BLOCK_E), SUMS)
    for start in range(0, N, BLOCK_N):
        keys = _rows(qkv_ptr + stride_p, start + key, channel, stride_n, N, E)
        values = _rows(qkv_ptr + 2 * stride_p, start + key, channel, stride_n, N, E)
        content = tl.exp(_scores(queries, keys, start + key, N, SCALE, SUMS, PRECISION) - logsumexp[:, None])
        grad_combined = tl.dot(grad, tl.trans(values), input_precision=PRECISION, out_dtype=SUMS)
        grad_scores = ((1 - gate) * content * (grad_combined - seen[:, None])).to(grad.dtype)
        grad_queries = tl.dot(grad_scores, keys, grad_queries, input_precision=PRECISION, out_dtype=SUMS)
    grad_qkv_ptr += (sample * N * 3 * H + head) * E
    _put_rows(grad_qkv_ptr, grad_queries * SCALE, query, channel, 3 * H * E, N, E)
    tl.store(seen_ptr + row, seen, mask=query < N)


@triton.jit
def keys_gradient_kernel(
    grad_ptr, qkv_ptr, positional_ptr, gate_ptr, logsumexp_ptr, grad_qkv_ptr, seen_ptr,
    grad_stride_b, grad_stride_n, grad_stride_h, stride_b, stride_n, stride_p, stride_h,
    N: tl.constexpr, H: tl.constexpr, E: tl.constexpr, SCALE: tl.constexpr, SUMS: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """The gradients of BLOCK_N keys and their values, of a head of a sample."""
    blocks = tl.cdiv(N, BLOCK_N)
    key = tl.program_id(0) % blocks * BLOCK_N + tl.arange(0, BLOCK_N)
    head = (tl.program_id(0) // blocks % H).to(tl.int64)
    sample = (tl.program_id(0) // (blocks * H)).to(tl.int64)
    channel = tl.arange(0, BLOCK_E)
    qkv_ptr += sample * stride_b + head * stride_h
    grad_ptr += sample * grad_stride_b + head * grad_stride_h
    keys = _rows(qkv_ptr + stride_p, key, channel, stride_n, N, E)
    values = _rows(qkv_ptr + 2 * stride_p, key, channel, stride_n, N, E)
    gate = tl.load(gate_ptr + head).to(SUMS)
    grad_keys = tl.zeros((BLOCK_N, BLOCK_E), SUMS)
    grad_values = tl.zeros((BLOCK_N, BLOCK_E), SUMS)
    for start in range(0, N, BLOCK_M):
        query = start + tl.arange(0, BLOCK_M)
        queries = _rows(qkv_ptr, query, channel, stride_n, N, E)
        grad = _rows(grad_ptr, query, channel, grad_stride_n, N, E)
        row = (sample * H + head) * N + query
        logsumexp = tl.load(logsumexp_ptr + row, mask=query < N, other=0)
        seen = tl.load(seen_ptr + row, mask=query < N, other=0)
        content = tl.exp(_scores(queries, keys, key, N, SCALE, SUMS, PRECISION) - logsumexp[:, None])
        combined = _combined(content, gate, positional_ptr, head, query, key, N).to(grad.dtype)
        grad_values = tl.dot(tl.trans(combined), grad, grad_values, input_precision=PRECISION, out_dtype=SUMS)
        grad_combined = tl.dot(grad, tl.trans(values), input_precision=PRECISION, out_dtype=SUMS)
        grad_scores = ((1 - gate) * content * (grad_combined - seen[:, None])).to(grad.dtype)
        grad_keys = tl.dot(tl.trans(grad_scores), queries, grad_keys, input_precision=PRECISION, out_dtype=SUMS)
    grad_qkv_ptr += (sample * N * 3 * H + head) * E
    _put_rows(grad_qkv_ptr + H * E, grad_keys * SCALE, key, channel, 3 * H * E, N, E)
    _put_rows(grad_qkv_ptr + 2 * H * E, grad_values, key, channel, 3 * H * E, N, E)


@triton.jit(do_not_specialize=["batch", "splits"])
def positional_gradient_kernel(
    grad_ptr, qkv_ptr, parts_ptr, batch, splits, grad_stride_b, grad_stride_n, grad_stride_h,
    stride_b, stride_n, stride_p, stride_h,
    N: tl.constexpr, H: tl.constexpr, E: tl.constexpr, SUMS: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """Part ``split`` of ``sum of grad v^T``, a tile of it: samples split, split + splits, ...; parts_ptr: [splits, H, N, N]."""
    rows, columns = tl.cdiv(N, BLOCK_M), tl.cdiv(N, BLOCK_N)
    key = tl.program_id(0) % columns * BLOCK_N + tl.arange(0, BLOCK_N)
    query = tl.program_id(0) // columns % rows * BLOCK_M + tl.arange(0, BLOCK_M)
    head = (tl.program_id(0) // (columns * rows) % H).to(tl.int64)
    split = tl.program_id(0) // (columns * rows * H)
    channel = tl.arange(0, BLOCK_E)
    grad_ptr += head * grad_stride_h
    qkv_ptr += head * stride_h + 2 * stride_p
    total = tl.zeros((BLOCK_M, BLOCK_N), SUMS)
    for step in range(0, batch - split, splits):
        sample = (split + step).to(tl.int64)
        grad = _rows(grad_ptr + sample * grad_stride_b, query, channel, grad_stride_n, N, E)
        values = _rows(qkv_ptr + sample * stride_b, key, channel, stride_n, N, E)
        total = tl.dot(grad, tl.trans(values), total, input_precision=PRECISION, out_dtype=SUMS)
    part_ptr = parts_ptr + ((split * H + head) * N + query)[:, None] * N + key[None, :]
    tl.store(part_ptr, total, mask=(query < N)[:, None] & (key < N)[None, :])
