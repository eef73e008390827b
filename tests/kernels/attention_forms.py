"""What the tests of gated_positional_attention hold its implementations to."""

from __future__ import annotations

import torch
from guards import assert_within_twice, doubled
from mixfast_kernels.gated_positional_attention import (
    gated_positional_attention_backward_reference,
    gated_positional_attention_reference,
)

NAMES = ("result", "logsumexp", "grad_qkv", "grad_positional", "grad_gate")


def run(forward, backward, tensors, grad, scale):
    """Results and gradients of a pair of operators."""
    result, logsumexp = forward(*tensors, scale)
    return result, logsumexp, *backward(grad, *tensors, logsumexp, scale)


def reference(tensors, grad, scale):
    return run(
        gated_positional_attention_reference, gated_positional_attention_backward_reference, tensors, grad, scale
    )


def same_dtype_form(tensors, grad, scale):
    """As one writes it in PyTorch: every product takes matrices of the tokens' dtype; softmax in the dtype of the sums."""
    qkv, positional, gate = leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    queries, keys, values = (part.transpose(1, 2) for part in qkv.unbind(2))
    scores = (scale * (queries @ keys.transpose(2, 3))).to(torch.promote_types(qkv.dtype, torch.float32))
    shares = gate.to(scores.dtype)[:, None, None]
    combined = (1 - shares) * scores.softmax(3) + shares * positional.to(scores.dtype)
    result = (combined.to(qkv.dtype) @ values).transpose(1, 2)
    grads = torch.autograd.grad(result, leaves, grad)
    return result.detach(), scores.detach().logsumexp(3), *grads


def assert_as_exact_as(results, plain, tensors, grad, scale):
    """At most twice the error of the plain form against float64, result by result."""
    exact_tensors = [doubled(tensor) for tensor in tensors]
    exact = reference(exact_tensors, grad.double(), scale)
    content, largest = _content(exact_tensors[0], exact[1], scale)
    for name, got, other, wanted in zip(NAMES, results, plain, exact, strict=True):
        if name == "grad_gate":
            _assert_gate(got, other, wanted, exact_tensors, grad.double(), content, largest, plain[1].dtype)
        else:
            # In float64 the plain form counts as exact, with roundings of its own.
            assert_within_twice(got, other, wanted, name, roundings=4 * largest if got.dtype == torch.float64 else 8)


def _content(qkv, logsumexp, scale):
    """The softmax, and by how many roundings it is off for one of its logits: the largest, and one of its own; 4 at least."""
    queries, keys, _ = (part.transpose(1, 2) for part in qkv.unbind(2))
    scores = scale * queries @ keys.transpose(2, 3)
    largest = scores.abs().max().item() if scores.numel() else 0.0
    return (scores - logsumexp[..., None]).exp(), max(4.0, 1 + largest)


def _assert_gate(got, plain, exact, tensors, grad, content, largest, sums):
    """A few numbers, each a sum of many that mostly cancel: what they are rounded by grows with those, not with the sum."""
    qkv, positional, _ = tensors
    values = qkv[:, :, 2].transpose(1, 2)
    terms = (positional + content) * (grad.transpose(1, 2) @ values.transpose(2, 3))
    floor = 2 * largest * torch.finfo(sums).eps * terms.square().sum((0, 2, 3)).sqrt().max()
    error, allowed = (got.double() - exact).abs().max(), 2 * (plain.double() - exact).abs().max() + floor
    assert got.dtype == plain.dtype and error <= allowed, f"grad_gate: off by {error:.3g}, allowed {allowed:.3g}"
