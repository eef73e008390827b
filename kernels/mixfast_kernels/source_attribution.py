"""source-attribution: tells each token which input it came from (MixViT).

    tokens*[b, n] = tokens[b, n] + sum_i w_i(b, n) * s_i(tokens[b, n])

embedding (thesis eq. 4.5): ``s_i(t) = bias_i``; encoding (eq. 4.6): ``s_i(t) = t W_i^T + bias_i``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mixfast_kernels._check import FLOATS, check_tensor
from mixfast_kernels._register import register_op
from mixfast_kernels.mixing import Mixing, check_mixing, zone_gradients


def _token_weights(
    inside: Tensor, outside: Tensor, box: Tensor | None, bitmap: Tensor | None, grid: list[int], dtype: torch.dtype
) -> Tensor:
    return Mixing(inside, outside, (grid[0], grid[1]), box, bitmap).weights().flatten(2).to(dtype)


def source_attribution_reference(
    tokens: Tensor,
    inside: Tensor,
    outside: Tensor,
    box: Tensor | None,
    bitmap: Tensor | None,
    bias: Tensor,
    weight: Tensor | None,
    grid: list[int],
) -> Tensor:
    """Plain PyTorch: ``[B, N, d]`` to ``[B, N, d]``, in the dtype of ``tokens``."""
    sums = torch.promote_types(tokens.dtype, torch.float32)
    weights = _token_weights(inside, outside, box, bitmap, grid, sums)
    result = tokens.to(sums) + weights.transpose(1, 2) @ bias.to(sums)
    if weight is not None:
        for source in range(bias.shape[0]):
            encoded = tokens @ weight[source].to(tokens.dtype).T
            result = torch.addcmul(result, weights[:, source, :, None], encoded.to(sums))
    return result.to(tokens.dtype)


def source_attribution_backward_reference(
    grad: Tensor,
    tokens: Tensor,
    inside: Tensor,
    outside: Tensor,
    box: Tensor | None,
    bitmap: Tensor | None,
    bias: Tensor,
    weight: Tensor | None,
    grid: list[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of tokens, inside, outside, bias and weight; that of an absent weight is empty."""
    sums = torch.promote_types(tokens.dtype, torch.float32)
    mixing = Mixing(inside, outside, (grid[0], grid[1]), box, bitmap)
    weights = mixing.weights().flatten(2).to(sums)
    wide = grad.to(sums)
    grad_tokens = wide
    grad_bias = torch.einsum("bmn,bnd->md", weights, wide)
    grad_weights = torch.einsum("bnd,md->bmn", wide, bias.to(sums))
    parts, encoded_parts = [], []
    if weight is not None:
        for source in range(bias.shape[0]):
            matrix = weight[source].to(tokens.dtype)
            weighted = weights[:, source, :, None] * wide
            grad_tokens = grad_tokens + (weighted.to(tokens.dtype) @ matrix).to(sums)
            parts.append(weighted.to(tokens.dtype).flatten(0, 1).T @ tokens.flatten(0, 1))
            encoded_parts.append(((tokens @ matrix.T).to(sums) * wide).sum(2))
        grad_weights = grad_weights + torch.stack(encoded_parts, 1)
    grad_inside, grad_outside = zone_gradients(mixing, grad_weights.unflatten(2, mixing.grid).to(inside.dtype))
    grad_weight = torch.stack(parts).to(weight.dtype) if weight is not None else tokens.new_empty(0)
    # A fresh tensor always: an operator must not return one of its inputs.
    grad_tokens = grad_tokens.to(tokens.dtype) if weight is not None else grad.to(tokens.dtype, copy=True)
    return grad_tokens, grad_inside, grad_outside, grad_bias.to(bias.dtype), grad_weight


def _fake(tokens: Tensor, *_: Any) -> Tensor:
    return tokens.new_empty(tokens.shape)


def _backward_fake(
    grad: Tensor,
    tokens: Tensor,
    inside: Tensor,
    outside: Tensor,
    box: Tensor | None,
    bitmap: Tensor | None,
    bias: Tensor,
    weight: Tensor | None,
    grid: list[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    grad_weight = tokens.new_empty(0) if weight is None else weight.new_empty(weight.shape)
    grad_tokens = tokens.new_empty(tokens.shape)
    return grad_tokens, torch.empty_like(inside), torch.empty_like(outside), bias.new_empty(bias.shape), grad_weight


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:-1])
    ctx.grid = inputs[-1]


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    tokens, inside, outside, box, bitmap, bias, weight = ctx.saved_tensors
    grads = _source_attribution_backward(grad, tokens, inside, outside, box, bitmap, bias, weight, ctx.grid)
    return grads[0], grads[1], grads[2], None, None, grads[3], grads[4] if weight is not None else None, None


def _flops(
    tokens: tuple[int, ...],
    inside: Any,
    outside: Any,
    box: Any,
    bitmap: Any,
    bias: tuple[int, ...],
    weight: Any,
    *_: Any,
    **__: Any,
) -> int:
    batch, count, width = tokens
    per_token = 2 * bias[0] * width * (1 if weight is None else width)
    return batch * count * per_token


def _backward_flops(grad: tuple[int, ...], *args: Any, **kwargs: Any) -> int:
    return 2 * _flops(*args)


_ARGUMENTS = "Tensor tokens, Tensor inside, Tensor outside, Tensor? box, Tensor? bitmap, Tensor bias, Tensor? weight, SymInt[] grid"
_source_attribution_backward = register_op(
    f"source_attribution_backward(Tensor grad, {_ARGUMENTS}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    source_attribution_backward_reference,
    _backward_fake,
    differentiable_reference=True,
    flops=_backward_flops,
)
_source_attribution = register_op(
    f"source_attribution({_ARGUMENTS}) -> Tensor",
    source_attribution_reference,
    _fake,
    setup_context=_setup_context,
    backward=_backward,
    autocast_inputs=(0, 5, 6),
    flops=_flops,
)


def source_attribution(tokens: Tensor, mixing: Mixing, bias: Tensor, weight: Tensor | None = None) -> Tensor:
    """Adds to each token what says which input it shows (thesis eq. 4.5 and 4.6).

    Args:
        tokens: ``[B, N, d]``, any floating-point dtype; under autocast, autocast's.
        mixing: the drawn mix on the token grid, ``grid[0] * grid[1] == N``.
        bias: ``[M, d]``, one vector a source.
        weight: ``[M, d, d]``, one matrix a source (output, input), for the encoding; None for the embedding.

    Returns:
        ``[B, N, d]`` in the dtype of ``tokens``. Gradients reach every floating-point argument.

    Raises:
        TypeError, ValueError: an argument has the wrong type, dtype, shape or device.
    """
    check_tensor(tokens, "tokens", ("B", "N", "d"), FLOATS)
    batch, count, width = tokens.shape
    check_mixing(mixing, "mixing", batch, None, tokens.device)
    if mixing.grid[0] * mixing.grid[1] != count:
        raise ValueError(f"mixing.grid must have as many positions as there are tokens, {count}; got {mixing.grid}")
    check_tensor(bias, "bias", (mixing.num_inputs, width), FLOATS, tokens.device)
    if weight is not None:
        check_tensor(weight, "weight", (mixing.num_inputs, width, width), FLOATS, tokens.device)
    return _source_attribution(
        tokens, mixing.inside, mixing.outside, mixing.box, mixing.bitmap, bias, weight, list(mixing.grid)
    )
