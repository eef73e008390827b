"""talking_heads_attention on whichever backend MIXFAST_BACKEND names: values and gradients against ``naive``, and its
behaviour under torch's machinery."""

from __future__ import annotations

import mixfast_kernels as mk
import naive
import numpy as np
import pytest
import torch
from guards import assert_within_twice
from hypothesis import given, settings
from hypothesis import strategies as st
from mixfast_kernels.talking_heads_attention import (
    talking_heads_attention_backward_reference,
    talking_heads_attention_reference,
)
from torch.utils.flop_counter import FlopCounterMode

DOUBLE = torch.float64
# batch, positions, heads, width of a head
SHAPES = [(2, 7, 3, 5), (1, 1, 1, 5), (2, 65, 4, 5), (1, 7, 6, 48), (1, 7, 8, 64), (3, 1, 4, 8), (2, 7, 1, 5)]
SMALL = (2, 7, 3, 5)


def randn(*shape, seed, dtype=DOUBLE):
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)
    return values.to(dtype).requires_grad_()


def inputs_of(batch, count, heads, width, dtype=DOUBLE):
    """qkv and the four parameters, in the order of the operator's arguments."""
    shapes = ((batch, count, 3, heads, width), (heads, heads), (heads,), (heads, heads), (heads,))
    return tuple(randn(*shape, seed=seed, dtype=dtype) for seed, shape in enumerate(shapes))


def detached(inputs):
    return tuple(value.detach() for value in inputs)


def exactly(inputs, scale=None):
    """What the naive form makes of them, in float64."""
    arrays = (value.detach().double().numpy() for value in inputs)
    return naive.talking_heads_attention(*arrays, inputs[0].shape[4] ** -0.5 if scale is None else scale)


def gradients(inputs, grad):
    return torch.autograd.grad(mk.talking_heads_attention(*inputs), inputs, grad)


@pytest.mark.parametrize("shape", SHAPES)
def test_values_are_those_of_the_naive_form(shape):
    inputs = inputs_of(*shape)
    result = mk.talking_heads_attention(*inputs)
    assert result.is_contiguous()
    np.testing.assert_allclose(result.detach(), exactly(inputs), rtol=1e-10, atol=1e-10)


def test_the_scale_is_that_of_the_argument():
    inputs = inputs_of(*SMALL)
    result = mk.talking_heads_attention(*inputs, scale=0.7)
    np.testing.assert_allclose(result.detach(), exactly(inputs, 0.7), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_are_those_that_autograd_finds_for_the_plain_form(shape):
    inputs = inputs_of(*shape)
    plain, _ = talking_heads_attention_reference(*inputs, shape[3] ** -0.5)
    grad = randn(*plain.shape, seed=9).detach()
    expected = torch.autograd.grad(plain, inputs, grad, allow_unused=True, materialize_grads=True)
    torch.testing.assert_close(gradients(inputs, grad), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_and_their_gradients_are_those_of_finite_differences(shape):
    inputs = inputs_of(*shape)
    # Its gradient is a constant, which gradgradcheck cannot take: see test_pre_bias_cancels.
    inputs[2].requires_grad_(False)
    assert torch.autograd.gradcheck(mk.talking_heads_attention, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(mk.talking_heads_attention, inputs, fast_mode=True)


def test_pre_bias_cancels():
    inputs = inputs_of(*SMALL)
    shifted = (*inputs[:2], inputs[2] + 3, *inputs[3:])
    torch.testing.assert_close(mk.talking_heads_attention(*shifted), mk.talking_heads_attention(*inputs))
    mk.talking_heads_attention(*inputs).square().sum().backward()
    assert torch.equal(inputs[2].grad, torch.zeros(3, dtype=DOUBLE))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(2, 17, 4, 48), (1, 7, 6, 5)])
def test_errors_are_at_most_twice_those_of_the_plain_form(shape, dtype):
    inputs = inputs_of(*shape, dtype=dtype)
    doubles = tuple(value.detach().double() for value in inputs)
    scale = shape[3] ** -0.5
    result = mk.talking_heads_attention(*inputs)
    grad = randn(*result.shape, seed=9, dtype=dtype).detach()
    got = gradients(inputs, grad)

    def plain(qkv, pre_weight, pre_bias, post_weight, post_bias):
        out, logsumexp = talking_heads_attention_reference(qkv, pre_weight, pre_bias, post_weight, post_bias, scale)
        of_out = grad.to(qkv.dtype)
        grads = talking_heads_attention_backward_reference(
            of_out, qkv, logsumexp, pre_weight, post_weight, post_bias, scale
        )
        return out, grads[0], grads[1], torch.zeros_like(pre_bias), grads[2], grads[3]

    for values in zip((result.detach(), *got), plain(*detached(inputs)), plain(*doubles), strict=True):
        assert_within_twice(*values, roundings=8)


def test_parameters_may_have_another_dtype_than_the_tokens():
    inputs = inputs_of(*SMALL)
    mixed = (inputs[0].detach().bfloat16().requires_grad_(), *inputs[1:])
    result = mk.talking_heads_attention(*mixed)
    assert result.dtype == torch.bfloat16
    np.testing.assert_allclose(result.detach().float(), exactly(mixed), rtol=0.05, atol=0.05)
    result.sum().backward()
    assert [value.grad.dtype for value in mixed] == [value.dtype for value in mixed]


def test_compiles_into_one_graph_with_the_same_values_and_gradients():
    inputs = inputs_of(*SMALL)
    compiled = torch.compile(mk.talking_heads_attention, fullgraph=True, backend="aot_eager")
    result = compiled(*inputs)
    grad = torch.randn_like(result)
    torch.testing.assert_close(result, mk.talking_heads_attention(*inputs))
    torch.testing.assert_close(torch.autograd.grad(result, inputs, grad), gradients(inputs, grad))


def test_opcheck():
    inputs = detached(inputs_of(*SMALL))
    forward = torch.ops.mixfast.talking_heads_attention.default
    torch.library.opcheck(forward, (*inputs_of(*SMALL), 0.4))
    result, logsumexp = forward(*inputs, 0.4)
    qkv, pre_weight, _, post_weight, post_bias = inputs
    arguments = (torch.randn_like(result), qkv, logsumexp, pre_weight, post_weight, post_bias, 0.4)
    torch.library.opcheck(torch.ops.mixfast.talking_heads_attention_backward.default, arguments)


def test_vmap_equals_a_loop():
    qkv, *rest = detached(inputs_of(*SMALL))
    stacked = torch.stack([qkv, 2 * qkv])
    result = torch.vmap(lambda one: mk.talking_heads_attention(one, *rest))(stacked)
    torch.testing.assert_close(result, torch.stack([mk.talking_heads_attention(one, *rest) for one in stacked]))


def laid_out(value, layout):
    """The same values (expanded: those of the first sample or row) in memory of another order."""
    if layout == "strided":
        return torch.stack((value, value), -1)[..., 0]
    if layout == "transposed":
        return value.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "permuted":  # channels stay side by side
        order = (*reversed(range(value.dim() - 1)), value.dim() - 1)
        inverse = tuple(order.index(i) for i in range(value.dim()))
        return value.permute(order).contiguous().permute(inverse)
    return value[:1].expand(value.shape)


@pytest.mark.parametrize("layout", ["strided", "transposed", "permuted", "expanded"])
def test_layouts_of_inputs_and_gradients(layout):
    views = tuple(laid_out(value.detach(), layout) for value in inputs_of(*SMALL))
    copies = tuple(value.contiguous().requires_grad_() for value in views)
    views = tuple(value.requires_grad_() for value in views)
    expected = mk.talking_heads_attention(*copies)
    torch.testing.assert_close(mk.talking_heads_attention(*views), expected)
    grad = laid_out(randn(*expected.shape, seed=9).detach(), layout)
    torch.testing.assert_close(gradients(views, grad), gradients(copies, grad.contiguous()))


def test_a_gradient_that_is_one_number_for_all():
    inputs = inputs_of(*SMALL)
    grad = torch.ones((), dtype=DOUBLE).expand(2, 7, 3, 5)
    torch.testing.assert_close(gradients(inputs, grad), gradients(inputs, grad.contiguous()))


def test_autocast_casts_the_tokens_and_leaves_the_parameters():
    inputs = inputs_of(*SMALL, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        result = mk.talking_heads_attention(*inputs)
    expected = mk.talking_heads_attention(inputs[0].bfloat16(), *inputs[1:])
    assert torch.equal(result, expected)
    result.sum().backward()
    assert all(value.grad.dtype == torch.float32 for value in inputs)


def test_float64_stays_float64_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        assert mk.talking_heads_attention(*inputs_of(*SMALL)).dtype == DOUBLE


def test_empty_batch():
    inputs = inputs_of(0, 7, 3, 5)
    result = mk.talking_heads_attention(*inputs)
    result.sum().backward()
    assert result.shape == (0, 7, 3, 5)
    assert all((value.grad == 0).all() and value.grad.shape == value.shape for value in inputs)


def test_large_logits_do_not_overflow():
    qkv, *rest = detached(inputs_of(*SMALL, dtype=torch.float32))
    large = qkv * torch.tensor([100.0, 100.0, 1.0])[:, None, None]
    result = mk.talking_heads_attention(large, *rest)
    np.testing.assert_allclose(result, exactly((large, *rest)), rtol=1e-2, atol=1e-2)


@settings(deadline=None, max_examples=15)
@given(
    batch=st.integers(1, 3),
    count=st.integers(1, 40),
    heads=st.integers(1, 9),
    width=st.integers(1, 70),
    layout=st.sampled_from(["strided", "transposed", "permuted", "expanded"]),
)
def test_any_shape_and_layout(batch, count, heads, width, layout):
    inputs = tuple(laid_out(value.detach(), layout) for value in inputs_of(batch, count, heads, width))
    np.testing.assert_allclose(mk.talking_heads_attention(*inputs), exactly(inputs), rtol=1e-9, atol=1e-9)


def test_flops_count_the_products_of_attention_and_of_the_heads():
    inputs = inputs_of(*SMALL)
    attention, mixing = 2 * 3 * 7 * 7 * 5, 2 * 3 * 3 * 7 * 7  # multiply-adds of one product
    with FlopCounterMode(display=False) as counter:
        result = mk.talking_heads_attention(*inputs)
    assert counter.get_total_flops() == 2 * (2 * attention + 2 * mixing)
    with FlopCounterMode(display=False) as counter:
        result.sum().backward()
    # With logits and mixtures that the backward pass takes anew.
    assert counter.get_total_flops() == 2 * (5 * attention + 6 * mixing)


QKV, SQUARE, ROW = torch.randn(2, 7, 3, 4, 5), torch.randn(4, 4), torch.randn(4)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((QKV[0], SQUARE, ROW, SQUARE, ROW), ValueError, "qkv"),
        ((QKV[:, :, :2], SQUARE, ROW, SQUARE, ROW), ValueError, "qkv"),
        ((QKV.int(), SQUARE, ROW, SQUARE, ROW), TypeError, "qkv"),
        ((QKV[:, :0], SQUARE, ROW, SQUARE, ROW), ValueError, "qkv must have at least one position"),
        ((QKV, SQUARE[:3], ROW, SQUARE, ROW), ValueError, "pre_weight"),
        ((QKV, SQUARE.int(), ROW, SQUARE, ROW), TypeError, "pre_weight"),
        ((QKV, SQUARE, ROW[:3], SQUARE, ROW), ValueError, "pre_bias"),
        ((QKV, SQUARE, None, SQUARE, ROW), TypeError, "pre_bias"),
        ((QKV, SQUARE, ROW, SQUARE[:, :3], ROW), ValueError, "post_weight"),
        ((QKV, SQUARE, ROW, SQUARE, ROW[None]), ValueError, "post_bias"),
        ((QKV, SQUARE, ROW, SQUARE, ROW.to("meta")), ValueError, "post_bias must be on cpu"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_refused_by_name(arguments, error, words):
    with pytest.raises(error, match=words):
        mk.talking_heads_attention(*arguments)
