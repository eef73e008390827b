"""The attention operators of the thesis's transformers at their sizes, for ``bench kernels``: see ``kernel_cases``."""

from __future__ import annotations

from collections.abc import Callable

import mixfast_kernels as mk
import torch
from mixfast_kernels.gated_positional_attention import gated_positional_attention_reference
from mixfast_kernels.talking_heads_attention import attended, mixed_attention, mixed_logits
from torch import Tensor
from torch.nn import functional as F

from mixfast_bench.kernel_problems import KernelCase, Maker, Problem, Rival, size_in_bytes


def gated(batch: int, count: int, heads: int = 12, width: int = 32) -> Callable[..., Problem]:
    """Content and position, gated (ConViT)."""

    def build(device: torch.device, dtype: torch.dtype) -> Problem:
        make = Maker(device, dtype)
        qkv = make.normal(batch, count, 3, heads, width)
        positional = make.normal(heads, count, count, scale=2.0).softmax(2)
        leaves = (qkv, positional, make.normal(heads).sigmoid())

        def call(qkv: Tensor, positional: Tensor, gate: Tensor) -> Tensor:
            return mk.gated_positional_attention(qkv, positional, gate)

        def plain(qkv: Tensor, positional: Tensor, gate: Tensor) -> Tensor:
            return gated_positional_attention_reference(qkv, positional, gate, width**-0.5)[0]

        def library(qkv: Tensor, positional: Tensor, gate: Tensor) -> Tensor:
            queries, keys, values = (part.transpose(1, 2) for part in qkv.unbind(2))
            shares = gate[:, None, None]
            content = F.scaled_dot_product_attention(queries, keys, values)
            return ((1 - shares) * content + (shares * positional) @ values).transpose(1, 2).contiguous()

        rivals = {
            name: Rival(library, tuple(leaf.clone() for leaf in leaves), compiled=compiled)
            for name, compiled in (
                ("fused attention and a product", False),
                ("fused attention and a product, compiled", True),
            )
        }
        once, result = size_in_bytes(qkv, positional), size_in_bytes(qkv) // 3
        product = 2 * batch * heads * count * count * width
        return Problem(call, plain, leaves, (once + result, 3 * once + 2 * result), (2 * product, 7 * product), rivals)

    return build


def talking_heads(batch: int, count: int, heads: int, width: int) -> Callable[..., Problem]:
    """Self-attention of CaiT."""

    def build(device: torch.device, dtype: torch.dtype) -> Problem:
        make = Maker(device, dtype)
        qkv = make.normal(batch, count, 3, heads, width)
        square, row = (heads, heads), (heads,)
        pre_weight, post_weight = (make.normal(*square, scale=heads**-0.5, dtype=torch.float32) for _ in range(2))
        pre_bias, post_bias = (make.normal(*row, scale=0.1, dtype=torch.float32) for _ in range(2))

        def call(qkv: Tensor, pre_weight: Tensor, post_weight: Tensor, post_bias: Tensor) -> Tensor:
            return mk.talking_heads_attention(qkv, pre_weight, pre_bias, post_weight, post_bias)

        def plain(qkv: Tensor, pre_weight: Tensor, post_weight: Tensor, post_bias: Tensor) -> Tensor:
            # The reference without the log-sum-exp, which only the operator's backward pass needs.
            probabilities = mixed_logits(qkv, pre_weight, width**-0.5).softmax(3)
            return attended(mixed_attention(probabilities, post_weight, post_bias), qkv)

        result = size_in_bytes(qkv) // 3
        product = 2 * batch * heads * count * count * width
        # Backward reads tokens and gradient and writes the tokens' gradient.
        traffic = (4 * result, 11 * result)
        return Problem(call, plain, (qkv, pre_weight, post_weight, post_bias), traffic, (2 * product, 6 * product))

    return build


ATTENTION_CASES = (
    KernelCase("gated_positional_attention", "64 tokens, 12 heads of 32 (ConViT)", gated(64, 64)),
    KernelCase("gated_positional_attention", "128 tokens, 12 heads of 32, two inputs' (ConViT)", gated(32, 128)),
    KernelCase("gated_positional_attention", "196 tokens, 12 heads of 32 (ConViT)", gated(16, 196)),
    KernelCase("talking_heads_attention", "64 tokens, 4 heads of 48 (CaiT-XXS)", talking_heads(64, 64, 4, 48)),
    KernelCase("talking_heads_attention", "64 tokens, 6 heads of 48 (CaiT-XS)", talking_heads(64, 64, 6, 48)),
    KernelCase("talking_heads_attention", "196 tokens, 4 heads of 48 (CaiT-XXS)", talking_heads(16, 196, 4, 48)),
    KernelCase("talking_heads_attention", "196 tokens, 6 heads of 48 (CaiT-XS)", talking_heads(16, 196, 6, 48)),
)
