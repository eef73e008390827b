"""gated_positional_attention on whichever backend ``MIXFAST_BACKEND`` names: values, gradients, and torch's machinery."""

from __future__ import annotations

import mixfast_kernels as mk
import pytest
import torch
from drawing import draw_attention, randn
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

OPERATORS = torch.ops.mixfast


def renormalised(qkv, positional, gate, scale=None):
    """The layer as ConViT has it, head by head: the gated sum divided by its rows' sums, then times the values."""
    scale = qkv.shape[-1] ** -0.5 if scale is None else scale
    heads = []
    for h in range(qkv.shape[3]):
        queries, keys, values = (qkv[:, :, part, h] for part in range(3))
        content = torch.softmax(scale * torch.einsum("bic,bjc->bij", queries, keys), 2)
        combined = content * (1 - gate[h]) + positional[h] * gate[h]
        heads.append(torch.einsum("bij,bjc->bic", combined / combined.sum(2, keepdim=True), values))
    return torch.stack(heads, 2)


def layer(form, qkv, logits, gating, scale=None):
    """A form as a GPSA layer calls it: the gate is a sigmoid and the positional part a softmax."""
    return form(qkv, logits.softmax(2), gating.sigmoid(), scale=scale)


def with_gradients(function, leaves, grad):
    leaves = tuple(leaf.detach().requires_grad_() for leaf in leaves)
    result = function(*leaves)
    return result.detach(), *torch.autograd.grad(result, leaves, grad)


def check(batch, count, heads, width, scale=None):
    qkv, gating = randn(batch, count, 3, heads, width, seed=1), randn(heads, seed=3)
    logits, grad = 2 * randn(heads, count, count, seed=2), randn(batch, count, heads, width, seed=4)
    forms = (mk.gated_positional_attention, renormalised)
    got, expected = (
        with_gradients(lambda *leaves, form=form: layer(form, *leaves, scale), (qkv, logits, gating), grad)
        for form in forms
    )
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


SHAPES = {
    "odd": (3, 7, 3, 5),
    "one-token": (4, 1, 2, 6),
    "one-head": (2, 9, 1, 8),
    "one-channel": (2, 5, 2, 1),
    "past-a-block": (2, 65, 2, 40),
    "wide": (1, 16, 2, 64),
    "wider-than-any-block": (1, 5, 1, 130),
    "convit": (2, 64, 3, 32),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_layer_is_that_of_the_renormalised_form(shape):
    """With the gradients of what a layer learns: that ConViT's normalisation is the identity is part of what this shows."""
    check(*SHAPES[shape])


@pytest.mark.parametrize("scale", [0.7, 0, -1.5, 3])
def test_scale(scale):
    check(2, 6, 2, 4, scale)


@settings(deadline=None, max_examples=15)
@given(batch=st.integers(1, 3), count=st.integers(1, 40), heads=st.integers(1, 3), width=st.integers(1, 20))
def test_any_shape(batch, count, heads, width):
    check(batch, count, heads, width)


def test_rows_of_the_positional_part_need_not_sum_to_one():
    """Nothing is normalised then: the gated sum alone is defined, and gradcheck moves rows freely."""
    qkv, positional, gate = draw_attention(2, 4, 2, 3)
    twice = mk.gated_positional_attention(qkv, 2 * positional, gate)
    once, content = (mk.gated_positional_attention(qkv, part, gate) for part in (positional, 0 * positional))
    torch.testing.assert_close(twice - content, 2 * (once - content))


def test_large_scores_do_not_overflow():
    qkv, positional, gate = draw_attention(2, 9, 2, 8)
    qkv[:, :, :2] *= 40
    for sign in (1, -1):  # all scores of a query may be far above zero, or far below
        qkv[:, :, 1] = sign * qkv[:, :, 0].abs()
        qkv[:, :, 0] = qkv[:, :, 0].abs()
        result = mk.gated_positional_attention(qkv, positional, gate)
        torch.testing.assert_close(result, renormalised(qkv, positional, gate))
        low = mk.gated_positional_attention(qkv.float(), positional.float(), gate.float())
        grads = with_gradients(
            mk.gated_positional_attention, (qkv.float(), positional.float(), gate.float()), torch.ones_like(low)
        )
        assert all(value.isfinite().all() for value in grads)


def small():
    return tuple(tensor.requires_grad_() for tensor in draw_attention(2, 5, 2, 3))


def test_gradients_and_their_gradients_are_those_of_finite_differences():
    assert torch.autograd.gradcheck(mk.gated_positional_attention, small())
    assert torch.autograd.gradgradcheck(mk.gated_positional_attention, small())


def test_opcheck():
    qkv, positional, gate = draw_attention(2, 5, 2, 3)
    torch.library.opcheck(OPERATORS.gated_positional_attention.default, (qkv, positional, gate, 0.5))
    logsumexp = OPERATORS.gated_positional_attention(qkv, positional, gate, 0.5)[1]
    arguments = (randn(2, 5, 2, 3, seed=5), qkv, positional, gate, logsumexp, 0.5)
    torch.library.opcheck(OPERATORS.gated_positional_attention_backward.default, arguments)


def test_compiles_into_one_graph_with_the_same_values_and_gradients():
    compiled = torch.compile(mk.gated_positional_attention, fullgraph=True, backend="aot_eager")
    grad = randn(2, 5, 2, 3, seed=4)
    got, expected = (with_gradients(call, small(), grad) for call in (compiled, mk.gated_positional_attention))
    torch.testing.assert_close(got, expected)


def test_autocast_casts_the_tokens_and_leaves_what_is_learnt_precise():
    qkv, positional, gate = (tensor.float().requires_grad_() for tensor in draw_attention(2, 6, 2, 4))
    with torch.autocast("cpu", torch.bfloat16):
        result = mk.gated_positional_attention(qkv, positional, gate)
    expected = mk.gated_positional_attention(qkv.bfloat16(), positional, gate)
    assert result.dtype == torch.bfloat16 and torch.equal(result, expected)
    result.sum().backward()
    assert all(leaf.grad.dtype == torch.float32 for leaf in (qkv, positional, gate))
    rounded = positional.grad.bfloat16().float()
    assert not torch.equal(positional.grad, rounded)


@pytest.mark.parametrize("moving", [0, 1, 2])
def test_vmap_equals_a_loop(moving):
    arguments = list(draw_attention(2, 5, 2, 3))
    stacked = torch.stack([arguments[moving], 0.5 * arguments[moving]])

    def call(value):
        return mk.gated_positional_attention(*arguments[:moving], value, *arguments[moving + 1 :])

    torch.testing.assert_close(torch.vmap(call)(stacked), torch.stack([call(value) for value in stacked]))


def spread(tensor):
    return torch.stack((tensor, tensor), -1)[..., 0]


def reordered(tensor):
    """The last dimension outermost in memory."""
    return tensor.movedim(-1, 0).contiguous().movedim(0, -1)


def with_a_gap(tensor):
    """Rows as they are after a class token is cut off, in a tensor of more dimensions."""
    return torch.cat((tensor[:, :1], tensor), 1)[:, 1:]


@pytest.mark.parametrize("view", [spread, reordered, with_a_gap])
def test_strided_inputs_and_gradients(view):
    tensors, grad = draw_attention(3, 7, 2, 5), randn(3, 7, 2, 5, seed=4)
    expected = with_gradients(mk.gated_positional_attention, tensors, grad)
    got = with_gradients(mk.gated_positional_attention, tuple(map(view, tensors[:2])) + tensors[2:], view(grad))
    torch.testing.assert_close(got, expected)


def test_expanded_inputs_and_gradients():
    qkv, positional, gate = draw_attention(1, 7, 1, 5)
    expanded = (qkv.expand(3, 7, 3, 2, 5), positional.expand(2, 7, 7), gate.expand(2))
    for grad in (torch.ones((), dtype=qkv.dtype).expand(3, 7, 2, 5), randn(1, 7, 1, 5, seed=4).expand(3, 7, 2, 5)):
        expected = with_gradients(mk.gated_positional_attention, [t.contiguous() for t in expanded], grad.contiguous())
        leaves = [tensor.requires_grad_() for tensor in expanded]
        result = mk.gated_positional_attention(*leaves)
        got = (result.detach(), *torch.autograd.grad(result, leaves, grad))
        torch.testing.assert_close(got, expected)


def test_empty_batch():
    qkv, positional, gate = (tensor.requires_grad_() for tensor in draw_attention(0, 4, 2, 3))
    result = mk.gated_positional_attention(qkv, positional, gate)
    result.sum().backward()
    assert result.shape == (0, 4, 2, 3) and qkv.grad.shape == qkv.shape
    assert (positional.grad == 0).all() and (gate.grad == 0).all()


def test_flops_count_two_products_forward_and_five_backward():
    qkv, positional, gate = (tensor.requires_grad_() for tensor in draw_attention(2, 5, 2, 3))
    product = 2 * 2 * 2 * 5 * 5 * 3
    with FlopCounterMode(display=False) as forward:
        result = mk.gated_positional_attention(qkv, positional, gate)
    with FlopCounterMode(display=False) as backward:
        result.sum().backward()
    assert (forward.get_total_flops(), backward.get_total_flops()) == (2 * product, 5 * product)


QKV, POSITIONAL, GATE = torch.ones(2, 4, 3, 2, 5), torch.ones(2, 4, 4), torch.ones(2)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((QKV[0], POSITIONAL, GATE), ValueError, "qkv must be"),
        ((QKV[:, :, :2], POSITIONAL, GATE), ValueError, "qkv must be"),
        ((QKV.int(), POSITIONAL, GATE), TypeError, "qkv must be"),
        ((None, POSITIONAL, GATE), TypeError, "qkv must be"),
        ((QKV[:, :0], POSITIONAL[:, :0, :0], GATE), ValueError, "qkv must have at least one token"),
        ((QKV[..., :0], POSITIONAL, GATE), ValueError, "qkv must have at least one token"),
        ((QKV, POSITIONAL[:, :3], GATE), ValueError, "positional must be"),
        ((QKV, POSITIONAL[:1], GATE), ValueError, "positional must be"),
        ((QKV, POSITIONAL.to("meta"), GATE), ValueError, "positional must be on cpu"),
        ((QKV, POSITIONAL, GATE[:1]), ValueError, "gate must be"),
        ((QKV, POSITIONAL, 0.5), TypeError, "gate must be"),
    ],
)
def test_wrong_arguments_are_refused_by_name(arguments, error, words):
    with pytest.raises(error, match=words):
        mk.gated_positional_attention(*arguments)


@pytest.mark.parametrize(("scale", "error"), [("1", TypeError), (True, TypeError), (float("nan"), ValueError)])
def test_a_wrong_scale_is_refused(scale, error):
    with pytest.raises(error, match="scale must be"):
        mk.gated_positional_attention(QKV, POSITIONAL, GATE, scale=scale)
