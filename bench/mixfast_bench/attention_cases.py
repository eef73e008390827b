"""The operators of the thesis's transformers at their sizes, for ``bench kernels``: see ``kernel_cases``."""

from __future__ import annotations

import math
from collections.abc import Callable

import mixfast_kernels as mk
import torch
from mixfast_kernels.class_attention import class_attention_reference, folded
from mixfast_kernels.gated_positional_attention import gated_positional_attention_reference
from mixfast_kernels.talking_heads_attention import attended, mixed_attention, mixed_logits
from torch import Tensor
from torch.nn import functional as F

from mixfast_bench.kernel_problems import INPUTS, KernelCase, Maker, Problem, Rival, size_in_bytes

EPS = 1e-6


def class_attention(
    base: int, side: int, width: int, heads: int, sets: int = 1, mixed: bool = False
) -> Callable[..., Problem]:
    """The norm and attention of a class-attention block. mixed: sources mixed into one set, as MixViT trains; else a source a set,
    as it predicts, or none for one set."""

    def build(device: torch.device, dtype: torch.dtype, times: int = 1) -> Problem:
        make, batch = Maker(device, dtype), base * times
        tokens, class_token = make.normal(batch, side * side, width), make.normal(batch, sets, width)
        vectors = [make.normal(width) for _ in range(4)]
        matrices = [make.normal(width, width, scale=width**-0.5) for _ in range(3)]
        parameters = (*vectors[:2], matrices[0], vectors[2], *matrices[1:], vectors[3])
        source = (make.normal(INPUTS, width),) if mixed or sets > 1 else ()
        mixing = make.mixing("box", batch, (side, side)) if mixed else None
        leaves = (tokens, class_token, *parameters, *source)

        def call(*leaves: Tensor) -> Tensor:
            return mk.class_attention(
                *leaves[:9], num_heads=heads, source=leaves[9] if source else None, mixing=mixing, eps=EPS
            )

        def plain(*leaves: Tensor) -> Tensor:
            given = leaves[9] if source else None
            return folded(class_attention_reference, *leaves[:9], heads, given, mixing, EPS)

        def projected(*leaves: Tensor) -> Tensor:
            """Keys and values of every token, as the block is usually written; each set after the other."""
            tokens, class_token, norm_weight, norm_bias, *projections = leaves[:9]
            query_weight, query_bias, key_weight, value_weight, value_bias = projections
            split = (batch, -1, heads, width // heads)
            results = []
            for index in range(sets):
                seen = tokens
                if mixing is not None:
                    seen = tokens + mixing.weights().flatten(2).transpose(1, 2).to(dtype) @ leaves[9]
                elif source:
                    seen = tokens + leaves[9][index]
                everything = torch.cat((class_token[:, index, None], seen), 1)
                normal = F.layer_norm(everything, (width,), norm_weight, norm_bias, EPS)
                query = F.linear(normal[:, :1], query_weight, query_bias).view(split).transpose(1, 2)
                key = F.linear(normal, key_weight).view(split).transpose(1, 2)
                value = F.linear(normal, value_weight, value_bias).view(split).transpose(1, 2)
                attended = F.scaled_dot_product_attention(query, key, value, scale=1 / math.sqrt(width // heads))
                results.append(attended.transpose(1, 2).reshape(batch, width))
            return torch.stack(results, 1)

        read = size_in_bytes(*leaves)
        written = size_in_bytes(class_token)
        products = 4 * batch * sets * heads * (side * side + 1) * width
        projections = 2 * 3 * batch * sets * width * width
        flops = (products + projections, 7 * products // 2 + 3 * projections)
        rival = Rival(projected, tuple(leaf.clone() for leaf in leaves), compiled=True)
        rivals = {"K and V projected, compiled": rival}
        return Problem(call, plain, leaves, (read + written, 3 * read + written), flops, rivals)

    return build


def gated(base: int, count: int, heads: int = 12, width: int = 32) -> Callable[..., Problem]:
    """Content and position, gated (ConViT)."""

    def build(device: torch.device, dtype: torch.dtype, times: int = 1) -> Problem:
        make, batch = Maker(device, dtype), base * times
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


def talking_heads(base: int, count: int, heads: int, width: int) -> Callable[..., Problem]:
    """Self-attention of CaiT."""

    def build(device: torch.device, dtype: torch.dtype, times: int = 1) -> Problem:
        make, batch = Maker(device, dtype), base * times
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


def gelu(base: int, count: int, width: int) -> Callable[..., Problem]:
    """What stands between the layers of an MLP."""

    def build(device: torch.device, dtype: torch.dtype, times: int = 1) -> Problem:
        make = Maker(device, dtype)
        x, bias = make.normal(base * times, count, width), make.normal(width)
        once = size_in_bytes(x)
        return Problem(mk.bias_gelu, lambda x, bias: F.gelu(x + bias), (x, bias), (2 * once, 5 * once))

    return build


ATTENTION_CASES = (
    KernelCase("class_attention", "64 x 384, 12 heads, cut (ConViT)", class_attention(64, 8, 384, 12, mixed=True)),
    KernelCase("class_attention", "64 x 384, 12 heads, 2 sets (ConViT)", class_attention(64, 8, 384, 12, sets=2)),
    KernelCase("class_attention", "196 x 288, 6 heads, cut (CaiT-XS)", class_attention(64, 14, 288, 6, mixed=True)),
    KernelCase("gated_positional_attention", "64 tokens, 12 heads of 32 (ConViT)", gated(64, 64)),
    KernelCase("gated_positional_attention", "128 tokens, 12 heads of 32, two inputs' (ConViT)", gated(32, 128)),
    KernelCase("gated_positional_attention", "196 tokens, 12 heads of 32 (ConViT)", gated(16, 196)),
    KernelCase("bias_gelu", "64 tokens of 1536 (ConViT)", gelu(64, 64, 1536)),
    KernelCase("talking_heads_attention", "64 tokens, 4 heads of 48 (CaiT-XXS)", talking_heads(64, 64, 4, 48)),
    KernelCase("talking_heads_attention", "64 tokens, 6 heads of 48 (CaiT-XS)", talking_heads(64, 64, 6, 48)),
    KernelCase("talking_heads_attention", "196 tokens, 4 heads of 48 (CaiT-XXS)", talking_heads(16, 196, 4, 48)),
    KernelCase("talking_heads_attention", "196 tokens, 6 heads of 48 (CaiT-XS)", talking_heads(16, 196, 6, 48)),
)
