"""class_attention in Triton: a program takes one set of one sample, all tokens at once, a chunk of columns at a time.

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
from torch import Tensor

from mixfast_kernels._triton.aot import Case, meta, nbytes
from mixfast_kernels._triton.class_attention_kernels import _backward_kernel, _forward_kernel
from mixfast_kernels._triton.zones import zone_of
from mixfast_kernels.class_attention import class_attention_backward_reference, class_attention_reference

MAX_TOKENS = 256
# By tokens, rounded up to a power of two: columns of a chunk. With 8 warps a chunk is 16 elements a thread at most.
COLUMNS = {64: 32, 128: 32, 256: 16}
WARPS = 8
# Heads times tokens, each rounded up: 16 scores a thread, and as many of each of their gradients.
MAX_SCORES = 4096
# Tokens at a time in the last pass: a dot's operand of so many tokens and 16 heads is in the registers of every warp.
BLOCK_T = 32


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
