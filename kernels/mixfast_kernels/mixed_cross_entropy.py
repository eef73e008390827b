"""mixed cross-entropy: the weighted loss of all M heads on two-label soft targets, without one-hot tensors.

    loss = mean over b of sum over m of weight[b, m] * CE(q[b, m], softmax(logits[b, m]))
    q    = (1 - smoothing) * (share * onehot(target) + (1 - share) * onehot(other)) + smoothing / K

(thesis eq. 3.1 and A.1; the two labels are those of pixel CutMix or MixUp inside one input's image.)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mixfast_kernels._check import FLOATS, check_tensor
from mixfast_kernels._register import register_op


def _log_probabilities_of(logits: Tensor, log_normaliser: Tensor, label: Tensor) -> Tensor:
    return logits.gather(2, label[:, :, None])[:, :, 0] - log_normaliser


def _head_losses(
    logits: Tensor, log_normaliser: Tensor, target: Tensor, other: Tensor | None, share: Tensor | None, smoothing: float
) -> Tensor:
    """Each head's cross-entropy, ``[B, M]``; ``logits`` already in the dtype that sums are taken in."""
    losses = -_log_probabilities_of(logits, log_normaliser, target)
    if other is not None and share is not None:
        losses = share * losses - (1 - share) * _log_probabilities_of(logits, log_normaliser, other)
    if smoothing > 0:
        losses = (1 - smoothing) * losses + smoothing * (log_normaliser - logits.mean(2))
    return losses


def mixed_cross_entropy_reference(
    logits: Tensor, target: Tensor, weight: Tensor, other: Tensor | None, share: Tensor | None, smoothing: float
) -> tuple[Tensor, Tensor]:
    """Plain PyTorch: the loss, and the log-normaliser ``[B, M]`` that the backward pass starts from."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    log_normaliser = wide.logsumexp(2)
    losses = _head_losses(wide, log_normaliser, target, other, share, smoothing)
    return (weight * losses).sum().to(wide.dtype) / max(logits.shape[0], 1), log_normaliser


def mixed_cross_entropy_backward_reference(
    grad: Tensor,
    logits: Tensor,
    log_normaliser: Tensor,
    target: Tensor,
    weight: Tensor,
    other: Tensor | None,
    share: Tensor | None,
    smoothing: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of logits, weight and share; that of an absent share is empty."""
    batch, _, classes = logits.shape
    wide = logits.to(log_normaliser.dtype)
    grad = grad / max(batch, 1)
    scale = (grad * weight).to(wide.dtype)
    aim = torch.full_like(wide, smoothing / classes)
    kept = torch.full_like(scale, 1 - smoothing)
    first = kept if share is None else kept * share.to(wide.dtype)
    aim = aim.scatter_add(2, target[:, :, None], first[:, :, None])
    if other is not None:
        aim = aim.scatter_add(2, other[:, :, None], (kept - first)[:, :, None])
    probabilities = (wide - log_normaliser[:, :, None]).exp()
    grad_logits = (scale[:, :, None] * (probabilities - aim)).to(logits.dtype)
    losses = _head_losses(wide, log_normaliser, target, other, share, smoothing)
    grad_weight = (grad * losses).to(weight.dtype)
    if other is None or share is None:
        return grad_logits, grad_weight, logits.new_empty(0)
    gap = wide.gather(2, other[:, :, None])[:, :, 0] - wide.gather(2, target[:, :, None])[:, :, 0]
    return grad_logits, grad_weight, (scale * (1 - smoothing) * gap).to(share.dtype)


def _fake(logits: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(logits.dtype, torch.float32)
    return logits.new_empty((), dtype=dtype), logits.new_empty(logits.shape[:2], dtype=dtype)


def _backward_fake(
    grad: Tensor,
    logits: Tensor,
    log_normaliser: Tensor,
    target: Tensor,
    weight: Tensor,
    other: Tensor | None,
    share: Tensor | None,
    smoothing: float,
) -> tuple[Tensor, Tensor, Tensor]:
    grad_share = logits.new_empty(0) if share is None else share.new_empty(share.shape)
    return logits.new_empty(logits.shape), weight.new_empty(weight.shape), grad_share


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    logits, target, weight, other, share, ctx.smoothing = inputs
    ctx.save_for_backward(logits, output[1], target, weight, other, share)
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    logits, log_normaliser, target, weight, other, share = ctx.saved_tensors
    if torch.is_grad_enabled() and logits.requires_grad:
        # A second derivative also flows through the log-normaliser, which the forward pass gave as a constant.
        log_normaliser = logits.to(log_normaliser.dtype).logsumexp(2)
    grads = _mixed_cross_entropy_backward(grad, logits, log_normaliser, target, weight, other, share, ctx.smoothing)
    return grads[0], None, grads[1], None, grads[2] if share is not None else None, None


_ARGUMENTS = "Tensor target, Tensor weight, Tensor? other, Tensor? share, float smoothing"
_mixed_cross_entropy_backward = register_op(
    f"mixed_cross_entropy_backward(Tensor grad, Tensor logits, Tensor log_normaliser, {_ARGUMENTS})"
    " -> (Tensor, Tensor, Tensor)",
    mixed_cross_entropy_backward_reference,
    _backward_fake,
    differentiable_reference=True,
)
_mixed_cross_entropy = register_op(
    f"mixed_cross_entropy(Tensor logits, {_ARGUMENTS}) -> (Tensor, Tensor)",
    mixed_cross_entropy_reference,
    _fake,
    setup_context=_setup_context,
    backward=_backward,
    autocast_inputs=(0, 2, 4),
    autocast_to=torch.float32,
)


def mixed_cross_entropy(
    logits: Tensor,
    target: Tensor,
    weight: Tensor,
    *,
    other: Tensor | None = None,
    share: Tensor | None = None,
    smoothing: float = 0.0,
) -> Tensor:
    """The training loss of every method: weighted cross-entropies, summed over heads, averaged over the batch (eq. A.1).

    Args:
        logits: ``[B, M, K]``, any floating-point dtype.
        target: int64 ``[B, M]``, the main label of each head, in 0..K-1 (not checked: that would wait for the device).
        weight: float ``[B, M]``, each head's loss weight.
        other: int64 ``[B, M]``, the second label, given together with ``share``.
        share: float ``[B, M]``, the mass of ``target``; ``1 - share`` goes to ``other``.
        smoothing: label smoothing in 0..1, spread over all K classes.

    Returns:
        A scalar, float32 (float64 for float64 logits). Gradients reach ``logits``, ``weight`` and ``share``.

    Raises:
        TypeError, ValueError: an argument has the wrong type, dtype, shape, device or range.
    """
    check_tensor(logits, "logits", ("B", "M", "K"), FLOATS)
    if logits.shape[2] < 1:
        raise ValueError(f"logits must have at least one class, got shape {tuple(logits.shape)}")
    heads = (logits.shape[0], logits.shape[1])
    check_tensor(target, "target", heads, (torch.int64,), logits.device)
    check_tensor(weight, "weight", heads, FLOATS, logits.device)
    if (other is None) != (share is None):
        raise ValueError("other and share must be given together")
    if other is not None:
        check_tensor(other, "other", heads, (torch.int64,), logits.device)
        check_tensor(share, "share", heads, FLOATS, logits.device)
    if not 0.0 <= smoothing <= 1.0:
        raise ValueError(f"smoothing must be between 0 and 1, got {smoothing}")
    return _mixed_cross_entropy(logits, target, weight, other, share, float(smoothing))[0]
