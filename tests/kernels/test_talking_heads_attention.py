"""talking_heads_attention on whichever backend MIXFAST_BACKEND names: values and gradients against ``naive``, and its
behaviour under torch's machinery."""

from __future__ import annotations

import mixfast_kernels as mk
import naive
import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

DOUBLE = torch.float64
# batch, positions, heads, width of a head
SHAPES = [(2, 7, 3, 5), (1, 1, 1, 5), (2, 65, 4, 5), (1, 7, 6, 48), (1, 7, 8, 64), (3, 1, 4, 8), (2, 7, 1, 5)]


def randn(*shape, seed, dtype=DOUBLE):
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)
    return values.to(dtype).requires_grad_()


def inputs_of(batch, count, heads, width, dtype=DOUBLE):
    """qkv and the four parameters, in the order of the operator's arguments."""
    shapes = ((batch, count, 3, heads, width), (heads, heads), (heads,), (heads, heads), (heads,))
    return tuple(randn(*shape, seed=seed, dtype=dtype) for seed, shape in enumerate(shapes))


def exactly(inputs, scale=None):
    """What the naive form makes of them, in float64."""
    arrays = (value.detach().double().numpy() for value in inputs)
    return naive.talking_heads_attention(*arrays, inputs[0].shape[4] ** -0.5 if scale is None else scale)


@pytest.mark.parametrize("shape", SHAPES)
def test_values_are_those_of_the_naive_form(shape):
    inputs = inputs_of(*shape)
    result = mk.talking_heads_attention(*inputs)
    assert result.is_contiguous()
    np.testing.assert_allclose(result.detach(), exactly(inputs), rtol=1e-10, atol=1e-10)


def test_the_scale_is_that_of_the_argument():
    inputs = inputs_of(2, 7, 3, 5)
    result = mk.talking_heads_attention(*inputs, scale=0.7)
    np.testing.assert_allclose(result.detach(), exactly(inputs, 0.7), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_and_their_gradients_are_those_of_finite_differences(shape):
    inputs = inputs_of(*shape)
    # Its gradient is a constant, which gradgradcheck cannot take: see test_pre_bias_cancels.
    inputs[2].requires_grad_(False)
    assert torch.autograd.gradcheck(mk.talking_heads_attention, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(mk.talking_heads_attention, inputs, fast_mode=True)


def test_pre_bias_cancels():
    inputs = inputs_of(2, 7, 3, 5)
    shifted = (*inputs[:2], inputs[2] + 3, *inputs[3:])
    torch.testing.assert_close(mk.talking_heads_attention(*shifted), mk.talking_heads_attention(*inputs))
    mk.talking_heads_attention(*inputs).square().sum().backward()
    assert torch.equal(inputs[2].grad, torch.zeros(3, dtype=DOUBLE))


def test_flops_count_the_products_of_attention_and_of_the_heads():
    inputs = tuple(value.detach() for value in inputs_of(2, 7, 3, 5))
    counter = FlopCounterMode(display=False)
    with counter:
        mk.talking_heads_attention(*inputs)
    attention, mixing = 2 * (2 * 3 * 7 * 7 * 5), 2 * (2 * 3 * 3 * 7 * 7)
    assert counter.get_total_flops() == 2 * (attention + mixing)
