"""The Triton gated_positional_attention against its reference in float64: shapes, dtypes, layouts, bounds and offsets."""

from __future__ import annotations

import pytest
import torch
from attention_forms import assert_as_exact_as, reference, same_dtype_form
from drawing import draw_attention, randn
from guards import doubled
from mixfast_kernels.gated_positional_attention import (
    gated_positional_attention_backward_reference,
    gated_positional_attention_reference,
)
from triton_cases import (
    assert_as_exact,
    guarded_call,
    interpreted_only,
    last_program,  # noqa: F401
    needs_triton,
)

pytestmark = needs_triton

SCALE = 0.3
SHAPES = {
    "convit": (2, 64, 2, 32),  # one program has all of a head
    "imagenet": (1, 196, 2, 32),  # blocks of queries and of keys, the last ones partial
    "narrow": (3, 9, 2, 5),
    "past-a-block": (2, 65, 1, 40),
    "one-token": (3, 1, 2, 3),
    "widest": (1, 20, 1, 128),
}
CASES = [
    ("convit", torch.bfloat16, torch.float32),
    ("convit", torch.float32, torch.float32),
    ("imagenet", torch.float16, torch.float32),
    ("imagenet", torch.float32, torch.float32),
    ("narrow", torch.float64, torch.float64),
    ("narrow", torch.float16, torch.float16),
    ("past-a-block", torch.float64, torch.float64),
    ("past-a-block", torch.bfloat16, torch.bfloat16),
    ("one-token", torch.float32, torch.float64),
    ("widest", torch.float32, torch.bfloat16),
]


def launchers():
    from mixfast_kernels._triton import gated_positional_attention as module

    return module.gated_positional_attention, module.gated_positional_attention_backward


def arguments_of(shape, dtype=torch.float32, other=torch.float32):
    """The operator's tensors, and a gradient of its result; positional and gate in the other dtype."""
    qkv, positional, gate = draw_attention(*shape)
    return (qkv.to(dtype), positional.to(other), gate.to(other)), randn(*qkv.shape[:2], *qkv.shape[3:], seed=4).to(
        dtype
    )


def check(tensors, grad):
    forward, backward = launchers()
    results = guarded_call(forward, *tensors, SCALE)
    grads = guarded_call(backward, grad, *tensors, results[1], SCALE)
    # The tensor cores multiply matrices of the tokens' dtype; the reference widens small ones first.
    form = same_dtype_form if grad.element_size() == 2 else reference
    assert_as_exact_as((*results, *grads), form(tensors, grad, SCALE), tensors, grad, SCALE)


@pytest.mark.parametrize(("shape", "dtype", "other"), CASES, ids=lambda value: str(value).removeprefix("torch."))
def test_values_and_gradients_stay_in_bounds_and_as_exact_as_the_reference(shape, dtype, other):
    check(*arguments_of(SHAPES[shape], dtype, other))


@pytest.mark.parametrize("view", ["class-token", "channels", "heads-first", "expanded"])
def test_views_of_tokens_and_gradients(view):
    (qkv, positional, gate), grad = arguments_of((4, 7, 3, 6))
    seen = {
        "class-token": lambda t: torch.cat((t[:, :1], t), 1)[:, 1:],
        "channels": lambda t: torch.cat((t, t), -1)[..., 2:8],
        "heads-first": lambda t: t.transpose(1, -2).contiguous().transpose(1, -2),
        "expanded": lambda t: t[:1].expand(t.shape),
    }[view]
    check((seen(qkv), positional.transpose(1, 2), gate), seen(grad))


def test_scores_far_from_zero():
    (qkv, positional, gate), grad = arguments_of((2, 19, 2, 8))
    qkv[:, :, 0], qkv[:, :, 1] = 6 * qkv[:, :, 0].abs(), -6 * qkv[:, :, 1].abs()
    check((qkv, positional, gate), grad)


def test_the_gradient_of_positional_in_several_parts(monkeypatch):
    """More samples than parts: some parts add up more of them than others."""
    from mixfast_kernels._triton import gated_positional_attention as module

    monkeypatch.setattr(module, "POSITIONAL_PROGRAMS", 6)
    check(*arguments_of((8, 5, 2, 4)))


def test_wider_heads_and_empty_batches_go_through_the_reference():
    forward, backward = launchers()
    for shape in ((1, 4, 1, 130), (0, 4, 2, 3)):
        tensors, grad = arguments_of(shape)
        results = forward(*tensors, SCALE)
        expected = gated_positional_attention_reference(*tensors, SCALE)
        assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))
        grads = backward(grad, *tensors, results[1], SCALE)
        expected = gated_positional_attention_backward_reference(grad, *tensors, results[1], SCALE)
        assert all(torch.equal(a, b) for a, b in zip(grads, expected, strict=True))


@interpreted_only
@pytest.mark.parametrize("count", [16, 70])
def test_strides_beyond_32_bits(count):
    """Two samples 2^31 elements apart; memory that is never touched costs nothing."""
    (qkv, positional, gate), grad = arguments_of((2, count, 1, 16), torch.float16)
    far = []
    for values in (qkv, grad):
        spread = torch.empty_strided(values.shape, (2**31 + 8, *values.stride()[1:]), dtype=values.dtype)
        far.append(spread.copy_(values))
    forward, backward = launchers()
    near = forward(qkv, positional, gate, SCALE)
    for result, expected in zip(forward(far[0], positional, gate, SCALE), near, strict=True):
        assert torch.equal(result, expected)
    calls = ((far[1], far[0]), (grad, qkv))
    results = (backward(*call, positional, gate, near[1], SCALE) for call in calls)
    for result, expected in zip(*results, strict=True):
        assert torch.equal(result, expected)


@interpreted_only
@pytest.mark.usefixtures("last_program")
def test_results_beyond_32_bits():
    """2^31 elements and more come out; only the last sample's last head is computed."""
    (qkv, positional, gate), _ = arguments_of((1, 16, 2, 64), torch.float16)
    batch = 2**31 // (16 * 2 * 64) + 2
    far = qkv.expand(batch, *qkv.shape[1:])
    result, logsumexp = launchers()[0](far, positional, gate, SCALE)
    expected = gated_positional_attention_reference(qkv, positional, gate, SCALE)
    exact = gated_positional_attention_reference(*map(doubled, (qkv, positional, gate)), SCALE)
    got = (result[-1:, :, 1], logsumexp[-1:, 1])
    assert_as_exact(got, (expected[0][:, :, 1], expected[1][:, 1]), (exact[0][:, :, 1], exact[1][:, 1]))
