"""gated positional attention: content and position decide together where a token looks (GPSA, d'Ascoli et al. 2021).

    out[b, i, h] = sum_j M[b, h, i, j] * v[b, j, h]
    M[b, h]      = (1 - gate[h]) * softmax(scale * q[b, :, h] k[b, :, h]^T) + gate[h] * positional[h]

(The first blocks of the thesis's ConViT, appendix A.1.5.) The rows of both parts sum to 1, hence those of M too: the
normalisation that ConViT puts after the sum changes nothing and is left out.

Backward, with A the softmax and D = grad v^T:

    v' = M^T grad        S' = (1 - gate) * A * (D - rowsum(A * D))        q' = scale * S' k        k' = scale * S'^T q
    positional' = gate * sum_b D        gate' = sum_{b, i, j} (positional - A) * D
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from mixfast_kernels._check import FLOATS, check_tensor
from mixfast_kernels._register import register_op


def _heads_first(tokens_BNhe: Tensor, dtype: torch.dtype) -> Tensor:
    return tokens_BNhe.transpose(1, 2).to(dtype)


def _queries_keys_values(qkv: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """``[B, h, N, e]`` each."""
    queries, keys, values = (_heads_first(part, dtype) for part in qkv.unbind(2))
    return queries, keys, values


def _scores(queries: Tensor, keys: Tensor, scale: float) -> Tensor:
    return scale * (queries @ keys.transpose(2, 3))


def _combined(content_BhNN: Tensor, positional: Tensor, gate: Tensor) -> Tensor:
    gate_hNN = gate.to(content_BhNN.dtype)[:, None, None]
    return (1 - gate_hNN) * content_BhNN + gate_hNN * positional.to(content_BhNN.dtype)


def gated_positional_attention_reference(
    qkv: Tensor, positional: Tensor, gate: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Plain PyTorch: the result ``[B, N, h, e]``, and the scores' logsumexp ``[B, h, N]`` for the backward pass."""
    queries, keys, values = _queries_keys_values(qkv, torch.promote_types(qkv.dtype, torch.float32))
    scores = _scores(queries, keys, scale)
    result = _combined(scores.softmax(3), positional, gate) @ values
    return result.transpose(1, 2).to(qkv.dtype).contiguous(), scores.logsumexp(3)


def gated_positional_attention_backward_reference(
    grad: Tensor, qkv: Tensor, positional: Tensor, gate: Tensor, logsumexp: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of qkv, positional and gate."""
    with torch.autocast(grad.device.type, enabled=False):
        sums = logsumexp.dtype
        queries, keys, values = _queries_keys_values(qkv, sums)
        grad_result = _heads_first(grad, sums)
        gate_hNN = gate.to(sums)[:, None, None]
        content = (_scores(queries, keys, scale) - logsumexp[:, :, :, None]).exp()
        grad_combined = grad_result @ values.transpose(2, 3)
        grad_values = _combined(content, positional, gate).transpose(2, 3) @ grad_result
        grad_content = (1 - gate_hNN) * grad_combined
        seen = (content * grad_content).sum(3, keepdim=True)
        grad_scores = scale * content * (grad_content - seen)
        grad_queries, grad_keys = grad_scores @ keys, grad_scores.transpose(2, 3) @ queries
        grad_qkv = torch.stack([part.transpose(1, 2) for part in (grad_queries, grad_keys, grad_values)], 2)
        summed = grad_combined.sum(0)
        grad_gate = (positional.to(sums) * summed).sum((1, 2)) - (content * grad_combined).sum((0, 2, 3))
        return grad_qkv.to(qkv.dtype), (gate_hNN * summed).to(positional.dtype), grad_gate.to(gate.dtype)


def _fake(qkv: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    batch, count, _, heads, width = qkv.shape
    sums = torch.promote_types(qkv.dtype, torch.float32)
    return qkv.new_empty(batch, count, heads, width), qkv.new_empty(batch, heads, count, dtype=sums)


def _backward_fake(
    grad: Tensor, qkv: Tensor, positional: Tensor, gate: Tensor, logsumexp: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(value.new_empty(value.shape) for value in (qkv, positional, gate))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.scale = inputs
    ctx.save_for_backward(*tensors, output[1])
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    qkv, positional, gate, logsumexp = ctx.saved_tensors
    if torch.is_grad_enabled() and qkv.requires_grad:
        # A second derivative also flows through the logsumexp, which the forward pass gave as a constant.
        queries, keys, _ = _queries_keys_values(qkv, logsumexp.dtype)
        logsumexp = _scores(queries, keys, ctx.scale).logsumexp(3)
    return *_gated_positional_attention_backward(grad, qkv, positional, gate, logsumexp, ctx.scale), None


def _flops(qkv: tuple[int, ...], *_: Any, **__: Any) -> int:
    """Two products: the scores, and with the values."""
    batch, count, _, heads, width = qkv
    return 2 * (2 * batch * heads * count * count * width)


def _backward_flops(grad: tuple[int, ...], qkv: tuple[int, ...], *_: Any, **__: Any) -> int:
    """Five products: the scores again, the gradient of the combined matrix, and those of queries, keys and values."""
    return 5 * _flops(qkv) // 2


_ARGUMENTS = "Tensor qkv, Tensor positional, Tensor gate"
_gated_positional_attention_backward = register_op(
    f"gated_positional_attention_backward(Tensor grad, {_ARGUMENTS}, Tensor logsumexp, float scale)"
    " -> (Tensor, Tensor, Tensor)",
    gated_positional_attention_backward_reference,
    _backward_fake,
    differentiable_reference=True,
    flops=_backward_flops,
)
_gated_positional_attention = register_op(
    f"gated_positional_attention({_ARGUMENTS}, float scale) -> (Tensor, Tensor)",
    gated_positional_attention_reference,
    _fake,
    setup_context=_setup_context,
    backward=_backward,
    # The other two are small, and precise where autocast's softmax and sigmoid left them: so are then their gradients.
    autocast_inputs=(0,),
    flops=_flops,
)


def gated_positional_attention(qkv: Tensor, positional: Tensor, gate: Tensor, *, scale: float | None = None) -> Tensor:
    """Attention by content and by position, mixed by a gate a head (GPSA; d'Ascoli et al. 2021).

    Args:
        qkv: ``[B, N, 3, h, e]``, queries, keys and values as one linear layer gives them; any floating-point dtype, under
            autocast, autocast's.
        positional: ``[h, N, N]``, where each position looks whatever the image; its rows sum to 1 (not checked). Any
            floating-point dtype.
        gate: ``[h]``, the share of ``positional`` in each head, in 0..1 (not checked). Any floating-point dtype.
        scale: of the scores; by default ``e ** -0.5``.

    Returns:
        ``[B, N, h, e]`` in the dtype of ``qkv``. Gradients reach ``qkv``, ``positional`` and ``gate``.

    Raises:
        TypeError, ValueError: an argument has the wrong type, dtype, shape, device or range.
    """
    check_tensor(qkv, "qkv", ("B", "N", 3, "h", "e"), FLOATS)
    _, count, _, heads, width = qkv.shape
    if min(count, heads, width) < 1:
        raise ValueError(f"qkv must have at least one token, head and channel a head, got shape {tuple(qkv.shape)}")
    check_tensor(positional, "positional", (heads, count, count), FLOATS, qkv.device)
    check_tensor(gate, "gate", (heads,), FLOATS, qkv.device)
    if scale is None:
        scale = width**-0.5
    elif not isinstance(scale, (int, float)) or isinstance(scale, bool):
        raise TypeError(f"scale must be a number or None, got {type(scale).__name__}")
    elif not math.isfinite(scale):
        raise ValueError(f"scale must be finite, got {scale}")
    return _gated_positional_attention(qkv, positional, gate, float(scale))[0]
