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
    tokens: Tensor | None,
    inside: Tensor,
    outside: Tensor,
    box: Tensor | None,
    bitmap: Tensor | None,
    bias: Tensor,
    weight: Tensor | None,
    grid: list[int],
    zones: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of tokens, inside, outside, bias and weight; empty for an absent weight and where not wanted (``zones``).

    Without a weight (embedding) the tokens are not needed, and the gradient of the tokens is ``grad`` itself: it is not
    returned, an empty tensor stands for it.
    """
    with torch.autocast(grad.device.type, enabled=False):
        sums = torch.promote_types(grad.dtype, torch.float32)
        mixing = Mixing(inside, outside, (grid[0], grid[1]), box, bitmap)
        weights = mixing.weights().flatten(2).to(sums)
        wide = grad.to(sums)
        grad_bias = torch.einsum("bmn,bnd->md", weights, wide).to(bias.dtype)
        grad_weights = torch.einsum("bnd,md->bmn", wide, bias.to(sums)) if zones else None
        grad_tokens, grad_weight = grad.new_empty(0), grad.new_empty(0)
        if weight is not None and tokens is not None:
            grad_tokens, parts = wide, []
            for source in range(bias.shape[0]):
                matrix = weight[source].to(tokens.dtype)
                weighted = (weights[:, source, :, None] * wide).to(tokens.dtype)
                grad_tokens = grad_tokens + (weighted @ matrix).to(sums)
                parts.append(weighted.flatten(0, 1).T @ tokens.flatten(0, 1))
            grad_tokens, grad_weight = grad_tokens.to(tokens.dtype), torch.stack(parts).to(weight.dtype)
            if grad_weights is not None:
                encoded = torch.einsum("bnk,mdk->bmnd", tokens, weight.to(tokens.dtype))
                grad_weights = grad_weights + (encoded.to(sums) * wide[:, None]).sum(3)
        grad_inside, grad_outside = inside.new_empty(0), outside.new_empty(0)
        if grad_weights is not None:
            grad_inside, grad_outside = zone_gradients(mixing, grad_weights.unflatten(2, mixing.grid).to(inside.dtype))
        return grad_tokens, grad_inside, grad_outside, grad_bias, grad_weight


def _fake(tokens: Tensor, *_: Any) -> Tensor:
    return tokens.new_empty(tokens.shape)


def _backward_fake(
    grad: Tensor,
    tokens: Tensor | None,
    inside: Tensor,
    outside: Tensor,
    box: Tensor | None,
    bitmap: Tensor | None,
    bias: Tensor,
    weight: Tensor | None,
    grid: list[int],
    zones: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    grad_tokens = grad.new_empty(0 if weight is None else grad.shape)
    grad_zones = tuple(value.new_empty(value.shape if zones else 0) for value in (inside, outside))
    grad_weight = grad.new_empty(0) if weight is None else weight.new_empty(weight.shape)
    return grad_tokens, *grad_zones, bias.new_empty(bias.shape), grad_weight


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    tokens, *rest, ctx.grid = inputs
    # The embedding's gradients need no tokens: they are not kept alive for it.
    ctx.save_for_backward(tokens if rest[-1] is not None else None, *rest)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    # Training never asks for the gradients of the mix itself, which cost a product for every source.
    zones = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
    saved = ctx.saved_tensors
    grads = _source_attribution_backward(grad, *saved, ctx.grid, zones)
    grad_zones = grads[1:3] if zones else (None, None)
    if saved[-1] is None:
        return grad, *grad_zones, None, None, grads[3], None, None
    return grads[0], *grad_zones, None, None, grads[3], grads[4], None


def _products(tokens: tuple[int, ...], bias: tuple[int, ...], weight: Any) -> int:
    """Of every source with every token. (A binary zone needs one source a token; shapes alone do not tell.)"""
    batch, count, width = tokens
    return 2 * batch * count * bias[0] * width * (1 if weight is None else width)


def _flops(tokens: tuple[int, ...], *args: Any, **__: Any) -> int:
    return _products(tokens, args[4], args[5])


def _backward_flops(grad: tuple[int, ...], tokens: Any, *args: Any, **__: Any) -> int:
    """The sources' gradients; that of the tokens where a matrix is in its way; that of the mix where it is wanted."""
    bias, weight, zones = args[4], args[5], args[7]
    return (1 + (weight is not None) + zones) * _products(grad, bias, weight)


_MIX = "Tensor inside, Tensor outside, Tensor? box, Tensor? bitmap"
_source_attribution_backward = register_op(
    f"source_attribution_backward(Tensor grad, Tensor? tokens, {_MIX}, Tensor bias, Tensor? weight, SymInt[] grid, bool zones)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    source_attribution_backward_reference,
    _backward_fake,
    differentiable_reference=True,
    flops=_backward_flops,
)
_source_attribution = register_op(
    f"source_attribution(Tensor tokens, {_MIX}, Tensor bias, Tensor? weight, SymInt[] grid) -> Tensor",
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
