"""gated_positional_attention on whichever backend ``MIXFAST_BACKEND`` names: values, gradients, and torch's machinery."""

from __future__ import annotations

import mixfast_kernels as mk
import pytest
import torch

DOUBLE = torch.float64


def randn(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def drawn(batch, count, heads, width, dtype=DOUBLE):
    """qkv, positional and gate, as a GPSA layer has them."""
    qkv = randn(batch, count, 3, heads, width, seed=1).to(dtype)
    positional = (2 * randn(heads, count, count, seed=2)).softmax(2).to(dtype)
    return qkv, positional, randn(heads, seed=3).sigmoid().to(dtype)


def renormalised(qkv, positional, gate, scale=None):
    """The layer as ConViT has it: head by head, the gated sum divided by its rows' sums."""
    scale = qkv.shape[-1] ** -0.5 if scale is None else scale
    heads = []
    for h in range(qkv.shape[3]):
        queries, keys, values = (qkv[:, :, part, h] for part in range(3))
        content = torch.softmax(scale * torch.einsum("bic,bjc->bij", queries, keys), 2)
        combined = content * (1 - gate[h]) + positional[h] * gate[h]
        heads.append(torch.einsum("bij,bjc->bic", combined / combined.sum(2, keepdim=True), values))
    return torch.stack(heads, 2)


SHAPES = {
    "odd": (3, 7, 3, 5),
    "one-token": (4, 1, 2, 6),
    "one-head": (2, 9, 1, 8),
    "one-channel": (2, 5, 2, 1),
    "past-a-block": (2, 65, 2, 40),
    "wide": (1, 16, 2, 64),
    "convit": (2, 64, 3, 32),
}


def leaves_of(tensors):
    return tuple(tensor.detach().requires_grad_() for tensor in tensors)


@pytest.mark.parametrize("scale", [None, 0.7])
@pytest.mark.parametrize("shape", SHAPES)
def test_is_the_renormalised_form_with_its_gradients(shape, scale):
    """Also ConViT's normalisation is the identity: this form has it, the operator has not."""
    leaves = leaves_of(drawn(*SHAPES[shape]))
    result, expected = mk.gated_positional_attention(*leaves, scale=scale), renormalised(*leaves, scale)
    torch.testing.assert_close(result, expected, rtol=1e-10, atol=1e-10)
    grad = randn(*result.shape, seed=4)
    # The normalised form's gradient of a row of `positional` is free of what moves all of the row alike, as is any whose
    # rows must sum to 1: that of the softmax which made it.
    got = torch.autograd.grad(result, leaves, grad)
    want = torch.autograd.grad(expected, leaves, grad)
    torch.testing.assert_close(got[0], want[0], rtol=1e-9, atol=1e-10)
