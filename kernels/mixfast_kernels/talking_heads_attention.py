"""talking-heads attention: self-attention whose heads are mixed before and after the softmax (CaiT).

    L_h  = scale * q_h k_h^T                       q, k, v [B, N, h, e]
    L'_g = sum_h pre_weight[g, h] L_h + pre_bias[g]
    P    = softmax(L') over the keys
    P'_g = sum_h post_weight[g, h] P_h + post_bias[g]
    out_g = P'_g v_g

(Shazeer et al., Talking-Heads Attention, 2020; Touvron et al., Going Deeper with Image Transformers, 2021.) ``pre_bias``
is the same for all keys of a row and cancels in the softmax: no value depends on it and its gradient is zero. It is an
argument because checkpoints have it. ``post_bias`` comes after the softmax and does matter.

Backward, with G the gradient of out and sums over samples and positions where a parameter has none:

    dv_g = P'_g^T G_g                dP'_g = G_g v_g^T               dpost_weight[g, h] = <dP'_g, P_h>
    dpost_bias[g] = sum dP'_g        dP_h  = sum_g post_weight[g, h] dP'_g
    dL'_h = P_h * (dP_h - sum over keys of P_h * dP_h)               dpre_weight[g, h] = <dL'_g, L_h>
    dL_h = sum_g pre_weight[g, h] dL'_g      dq_h = scale * dL_h k_h      dk_h = scale * dL_h^T q_h
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mixfast_kernels._check import FLOATS, check_tensor
from mixfast_kernels._register import register_op


def _mixed_heads(weight_GH: Tensor, values_BHNM: Tensor) -> Tensor:
    """Each head's sum of all heads, in the dtype of the values."""
    return torch.einsum("gh,bhnm->bgnm", weight_GH.to(values_BHNM.dtype), values_BHNM)


def _split(qkv: Tensor) -> tuple[Tensor, ...]:
    """Queries, keys and values, each ``[B, h, N, e]``."""
    return qkv.permute(2, 0, 3, 1, 4).unbind(0)


def _logits(query_BHNE: Tensor, key_BHNE: Tensor, scale: float) -> Tensor:
    """``[B, h, N, N]`` before the heads are mixed, in the dtype that sums are taken in."""
    products = query_BHNE @ key_BHNE.transpose(2, 3)
    return scale * products.to(torch.promote_types(products.dtype, torch.float32))


def mixed_logits(qkv: Tensor, pre_weight: Tensor, scale: float) -> Tensor:
    """``[B, h, N, N]``: what the softmax is taken of, but for ``pre_bias``, which cancels there."""
    query, key, _ = _split(qkv)
    return _mixed_heads(pre_weight, _logits(query, key, scale))


def mixed_attention(probabilities: Tensor, post_weight: Tensor, post_bias: Tensor) -> Tensor:
    """``[B, h, N, N]``: what the values are multiplied by."""
    return _mixed_heads(post_weight, probabilities) + post_bias.to(probabilities.dtype)[:, None, None]


def attended(attention: Tensor, qkv: Tensor) -> Tensor:
    """``[B, N, h, e]``, contiguous."""
    return (attention.to(qkv.dtype) @ _split(qkv)[2]).transpose(1, 2).contiguous()


def talking_heads_attention_reference(
    qkv: Tensor, pre_weight: Tensor, pre_bias: Tensor, post_weight: Tensor, post_bias: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Plain PyTorch: the result ``[B, N, h, e]``, and the logarithm of each row's sum of exponentials ``[B, h, N]`` that the
    backward pass starts from (of ``mixed_logits``, without ``pre_bias``)."""
    logits = mixed_logits(qkv, pre_weight, scale)
    return attended(mixed_attention(logits.softmax(3), post_weight, post_bias), qkv), logits.logsumexp(3)


def talking_heads_attention_backward_reference(
    grad: Tensor,
    qkv: Tensor,
    logsumexp: Tensor,
    pre_weight: Tensor,
    post_weight: Tensor,
    post_bias: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of qkv, pre_weight, post_weight and post_bias."""
    with torch.autocast(grad.device.type, enabled=False):
        query, key, value = _split(qkv)
        grad_BHNE = grad.transpose(1, 2)
        logits = _logits(query, key, scale)
        probabilities = (_mixed_heads(pre_weight, logits) - logsumexp[..., None]).exp()
        attention = mixed_attention(probabilities, post_weight, post_bias)
        grad_value = attention.to(qkv.dtype).transpose(2, 3) @ grad_BHNE

        grad_attention = (grad_BHNE @ value.transpose(2, 3)).to(logits.dtype)
        grad_post_weight = torch.einsum("bgnm,bhnm->gh", grad_attention, probabilities)
        grad_probabilities = _mixed_heads(post_weight.T, grad_attention)
        row_sums = (probabilities * grad_probabilities).sum(3, keepdim=True)
        grad_mixed = probabilities * (grad_probabilities - row_sums)

        grad_pre_weight = torch.einsum("bgnm,bhnm->gh", grad_mixed, logits)
        grad_products = (scale * _mixed_heads(pre_weight.T, grad_mixed)).to(qkv.dtype)
        grad_query, grad_key = grad_products @ key, grad_products.transpose(2, 3) @ query
        return (
            torch.stack((grad_query, grad_key, grad_value)).permute(1, 3, 0, 2, 4).contiguous(),
            grad_pre_weight.to(pre_weight.dtype),
            grad_post_weight.to(post_weight.dtype),
            grad_attention.sum((0, 2, 3)).to(post_bias.dtype),
        )


def _fake(qkv: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    batch, count, _, heads, width = qkv.shape
    sums = torch.promote_types(qkv.dtype, torch.float32)
    return qkv.new_empty((batch, count, heads, width)), qkv.new_empty((batch, heads, count), dtype=sums)


def _backward_fake(
    grad: Tensor,
    qkv: Tensor,
    logsumexp: Tensor,
    pre_weight: Tensor,
    post_weight: Tensor,
    post_bias: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        qkv.new_empty(qkv.shape),
        pre_weight.new_empty(pre_weight.shape),
        post_weight.new_empty(post_weight.shape),
        post_bias.new_empty(post_bias.shape),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    qkv, pre_weight, pre_bias, post_weight, post_bias, ctx.scale = inputs
    ctx.save_for_backward(qkv, output[1], pre_weight, pre_bias, post_weight, post_bias)
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    qkv, logsumexp, pre_weight, pre_bias, post_weight, post_bias = ctx.saved_tensors
    if torch.is_grad_enabled() and (qkv.requires_grad or pre_weight.requires_grad):
        # A second derivative also flows through the log-sum-exp, which the forward pass gave as a constant.
        logsumexp = mixed_logits(qkv, pre_weight, ctx.scale).logsumexp(3)
    grads = _talking_heads_attention_backward(grad, qkv, logsumexp, pre_weight, post_weight, post_bias, ctx.scale)
    grad_pre_bias = torch.zeros_like(pre_bias) if ctx.needs_input_grad[2] else None
    return grads[0], grads[1], grad_pre_bias, grads[2], grads[3], None


def _flops(qkv: tuple[int, ...], *_: Any, **__: Any) -> int:
    batch, count, _three, heads, width = qkv
    return 4 * batch * count * count * heads * (width + heads)


def _backward_flops(grad: tuple[int, ...], qkv: tuple[int, ...], *_: Any, **__: Any) -> int:
    """Logits and both mixtures of heads once more; two gradients of each mixture; those of values, attention, queries and
    keys: five products of tokens, six of heads."""
    batch, count, _three, heads, width = qkv
    return 2 * batch * count * count * heads * (5 * width + 6 * heads)


_talking_heads_attention_backward = register_op(
    "talking_heads_attention_backward(Tensor grad, Tensor qkv, Tensor logsumexp, Tensor pre_weight, Tensor post_weight,"
    " Tensor post_bias, float scale) -> (Tensor, Tensor, Tensor, Tensor)",
    talking_heads_attention_backward_reference,
    _backward_fake,
    differentiable_reference=True,
    flops=_backward_flops,
)
_talking_heads_attention = register_op(
    "talking_heads_attention(Tensor qkv, Tensor pre_weight, Tensor pre_bias, Tensor post_weight, Tensor post_bias,"
    " float scale) -> (Tensor, Tensor)",
    talking_heads_attention_reference,
    _fake,
    setup_context=_setup_context,
    backward=_backward,
    autocast_inputs=(0,),
    flops=_flops,
)


def talking_heads_attention(
    qkv: Tensor,
    pre_weight: Tensor,
    pre_bias: Tensor,
    post_weight: Tensor,
    post_bias: Tensor,
    *,
    scale: float | None = None,
) -> Tensor:
    """Self-attention with the heads mixed before and after the softmax; no ``[B, h, N, N]`` tensor is held.

    Args:
        qkv: ``[B, N, 3, h, e]``, any floating-point dtype (under autocast, autocast's): queries, keys and values as one
            linear layer gives them.
        pre_weight: ``[h, h]`` (out, in), mixes the heads' logits. Like the other parameters in any floating-point dtype.
        pre_bias: ``[h]``. It cancels in the softmax: nothing depends on it, its gradient is zero.
        post_weight: ``[h, h]`` (out, in), mixes the heads' probabilities.
        post_bias: ``[h]``, added to all probabilities of a head.
        scale: of the logits; by default ``e ** -0.5``.

    Returns:
        ``[B, N, h, e]`` in the dtype of ``qkv``, contiguous: ``.flatten(2)`` is what the output projection takes.
        Gradients reach ``qkv`` and the four parameters.

    Raises:
        TypeError, ValueError: an argument has the wrong type, dtype, shape or device.
    """
    check_tensor(qkv, "qkv", ("B", "N", 3, "h", "e"), FLOATS)
    heads, width = qkv.shape[3:]
    for name, value, shape in (
        ("pre_weight", pre_weight, (heads, heads)),
        ("pre_bias", pre_bias, (heads,)),
        ("post_weight", post_weight, (heads, heads)),
        ("post_bias", post_bias, (heads,)),
    ):
        check_tensor(value, name, shape, FLOATS, qkv.device)
    if min(qkv.shape[1:]) == 0:
        raise ValueError(f"qkv must have at least one position, head and channel, got shape {tuple(qkv.shape)}")
    if scale is None:
        scale = width**-0.5
    return _talking_heads_attention(qkv, pre_weight, pre_bias, post_weight, post_bias, float(scale))[0]
