"""gated_positional_attention in Triton: no N x N matrix but ``positional`` and its gradient is ever in memory.

Forward, a program has a block of queries: one pass over the keys for the logsumexp, one for the weighted sum, which are one
where all keys fit a block. Backward, a block of queries gives their gradients and ``seen = rowsum(A * grad v^T)``, a
block of keys theirs and the values'; where all tokens fit a block, one program gives all three. The gradient of
``positional`` sums ``grad v^T`` over the batch in a fixed number of parts.

Dimensions: B samples, N tokens, H heads, E channels a head. Heads wider than a block go through the reference.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import triton
from torch import Tensor

from mixfast_kernels._triton.aot import Case, meta, nbytes
from mixfast_kernels._triton.gated_attention_kernels import (
    forward_kernel,
    keys_gradient_kernel,
    positional_gradient_kernel,
    queries_gradient_kernel,
    whole_gradient_kernel,
)
from mixfast_kernels._triton.interpreter import repair
from mixfast_kernels._triton.precision import products_of, sums_of
from mixfast_kernels.gated_positional_attention import (
    gated_positional_attention_backward_reference,
    gated_positional_attention_reference,
)

repair()

# By an element's size: tiles of BLOCK_M queries and BLOCK_N keys. Float32 products run outside the tensor cores and hold
# their operands in registers, float64 ones in twice as many. One program has all of a head where it fits WHOLE's tile.
FORWARD = {
    2: {"BLOCK_M": 64, "BLOCK_N": 64, "num_warps": 8},
    4: {"BLOCK_M": 64, "BLOCK_N": 64, "num_warps": 8},
    8: {"BLOCK_M": 16, "BLOCK_N": 16, "num_warps": 4},
}
WHOLE = {
    2: {"BLOCK_M": 64, "BLOCK_N": 64, "num_warps": 8},
    4: {"BLOCK_M": 64, "BLOCK_N": 64, "num_warps": 8},
    8: {"BLOCK_M": 16, "BLOCK_N": 16, "num_warps": 4},
}
BACKWARD = {
    2: {"BLOCK_M": 64, "BLOCK_N": 64, "num_warps": 8},
    4: {"BLOCK_M": 32, "BLOCK_N": 32, "num_warps": 4},
    8: {"BLOCK_M": 16, "BLOCK_N": 16, "num_warps": 4},
}
WIDEST_HEAD = 128
# The parts of positional's gradient: enough programs for a large card, few enough to add up quickly.
POSITIONAL_PROGRAMS = 512


def gated_positional_attention(
    qkv_BNPHE: Tensor, positional_HNN: Tensor, gate_H: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """The result ``[B, N, H, E]``, in the dtype of qkv, and the logsumexp ``[B, H, N]``, in that of the sums."""
    batch, count, _, heads, width = qkv_BNPHE.shape
    if _is_unfit(qkv_BNPHE):
        return gated_positional_attention_reference(qkv_BNPHE, positional_HNN, gate_H, scale)
    result_BNHE = qkv_BNPHE.new_empty(batch, count, heads, width)
    sums = torch.promote_types(qkv_BNPHE.dtype, torch.float32)
    logsumexp_BHN = qkv_BNPHE.new_empty(batch, heads, count, dtype=sums)
    if batch == 0:
        return result_BNHE, logsumexp_BHN
    qkv_BNPHE, positional_HNN, gate_H = _rows_of(qkv_BNPHE), positional_HNN.contiguous(), gate_H.contiguous()
    blocks = _blocks(FORWARD, qkv_BNPHE)
    programs = batch * heads * triton.cdiv(count, blocks["BLOCK_M"])
    with torch.cuda.device_of(qkv_BNPHE):
        forward_kernel[(programs,)](
            qkv_BNPHE, positional_HNN, gate_H, result_BNHE, logsumexp_BHN, *qkv_BNPHE.stride()[:4],
            SCALE=scale, **_constants(qkv_BNPHE), **blocks,
        )  # fmt: skip
    return result_BNHE, logsumexp_BHN


def gated_positional_attention_backward(
    grad_BNHE: Tensor, qkv_BNPHE: Tensor, positional_HNN: Tensor, gate_H: Tensor, logsumexp_BHN: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of qkv, positional and gate."""
    batch, count, _, heads, _ = qkv_BNPHE.shape
    if batch == 0 or _is_unfit(qkv_BNPHE):
        return gated_positional_attention_backward_reference(
            grad_BNHE, qkv_BNPHE, positional_HNN, gate_H, logsumexp_BHN, scale
        )
    grad_BNHE, qkv_BNPHE = _rows_of(grad_BNHE), _rows_of(qkv_BNPHE)
    grad_qkv_BNPHE, seen_BHN = qkv_BNPHE.new_empty(qkv_BNPHE.shape), logsumexp_BHN.new_empty(logsumexp_BHN.shape)
    tensors = (
        grad_BNHE, qkv_BNPHE, positional_HNN.contiguous(), gate_H.contiguous(), logsumexp_BHN.contiguous(),
        grad_qkv_BNPHE, seen_BHN,
    )  # fmt: skip
    strides = (*grad_BNHE.stride()[:3], *qkv_BNPHE.stride()[:4])
    is_whole = count <= WHOLE[qkv_BNPHE.element_size()]["BLOCK_M"]
    constants, blocks = _constants(qkv_BNPHE), _blocks(WHOLE if is_whole else BACKWARD, qkv_BNPHE)
    queries, keys = (triton.cdiv(count, blocks[name]) for name in ("BLOCK_M", "BLOCK_N"))
    with torch.cuda.device_of(qkv_BNPHE):
        more = {"SCALE": scale, **constants, **blocks}
        if is_whole:
            whole_gradient_kernel[(batch * heads,)](*tensors, *strides, **more)
        else:
            queries_gradient_kernel[(batch * heads * queries,)](*tensors, *strides, **more)
            keys_gradient_kernel[(batch * heads * keys,)](*tensors, *strides, **more)
        tiles = heads * queries * keys
        splits = min(batch, triton.cdiv(POSITIONAL_PROGRAMS, tiles))
        parts = logsumexp_BHN.new_empty(splits, heads, count, count)
        positional_gradient_kernel[(splits * tiles,)](
            grad_BNHE, qkv_BNPHE, parts, batch, splits, *strides, **constants, **blocks
        )
    summed_HNN = parts.sum(0)
    grad_gate = (positional_HNN.to(summed_HNN.dtype) * summed_HNN).sum((1, 2)) - seen_BHN.sum((0, 2))
    grad_positional = gate_H.to(summed_HNN.dtype)[:, None, None] * summed_HNN
    return grad_qkv_BNPHE, grad_positional.to(positional_HNN.dtype), grad_gate.to(gate_H.dtype)


def _rows_of(tensor: Tensor) -> Tensor:
    """Channels side by side: as they are (any other strides), or a copy."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _is_unfit(qkv: Tensor) -> bool:
    """Heads too wide for a block, or more programs than a grid holds."""
    return qkv.shape[4] > WIDEST_HEAD or qkv.shape[0] * qkv.shape[1] * qkv.shape[3] >= 2**31


def _constants(qkv: Tensor) -> dict[str, Any]:
    _, count, _, heads, width = qkv.shape
    return {"N": count, "H": heads, "E": width, "SUMS": sums_of(qkv.dtype), "PRECISION": products_of(qkv.dtype)}


def _blocks(table: dict[int, dict[str, int]], qkv: Tensor) -> dict[str, int]:
    """The blocks, no larger than a power of two that holds the tokens, no smaller than what a product takes."""
    blocks, most = table[qkv.element_size()], max(16, triton.next_power_of_2(qkv.shape[1]))
    fitted = {name: min(blocks[name], most) for name in ("BLOCK_M", "BLOCK_N")}
    return {**blocks, **fitted, "BLOCK_E": max(16, triton.next_power_of_2(qkv.shape[4]))}


def aot_cases() -> list[Case]:
    """Sizes of the thesis's ConViT, 12 heads of 32: 64 tokens (CIFAR, Tiny ImageNet), 196 (ImageNet-100)."""
    cases = []
    for (batch, count), dtype in (
        ((128, 64), torch.bfloat16),
        ((128, 64), torch.float32),
        ((32, 196), torch.float16),
        ((32, 196), torch.float32),
        ((32, 64), torch.float64),
    ):
        heads, width = 12, 32
        qkv, grad = meta(batch, count, 3, heads, width, dtype=dtype), meta(batch, count, heads, width, dtype=dtype)
        sums = torch.promote_types(dtype, torch.float32)
        positional, gate = meta(heads, count, count, dtype=sums), meta(heads, dtype=sums)
        logsumexp = meta(batch, heads, count, dtype=sums)
        label, product = f"{str(dtype).removeprefix('torch.')}, {count} tokens", 2 * batch * heads * count**2 * width
        forward = functools.partial(gated_positional_attention, qkv, positional, gate, width**-0.5)
        floor = nbytes(qkv, grad, positional, logsumexp)
        cases.append(Case(f"gated_positional_attention: forward, {label}", forward, floor, 2 * product, dtype))
        backward = functools.partial(
            gated_positional_attention_backward, grad, qkv, positional, gate, logsumexp, width**-0.5
        )
        floor = nbytes(grad, qkv, qkv, positional, positional, logsumexp)
        cases.append(Case(f"gated_positional_attention: backward, {label}", backward, floor, 5 * product, dtype))
    return cases
