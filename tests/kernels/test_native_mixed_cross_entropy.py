"""The C++ loss against its float64 reference: values, gradients, layouts, extremes, determinism, refused indices."""

from __future__ import annotations

import pytest
import torch
from mixfast_kernels.mixed_cross_entropy import (
    mixed_cross_entropy_backward_reference,
    mixed_cross_entropy_reference,
)
from running import needs_native

pytestmark = needs_native

FORWARD = torch.ops.mixfast.mixed_cross_entropy.default
BACKWARD = torch.ops.mixfast.mixed_cross_entropy_backward.default
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]

# (batch, heads, classes): less than a vector, one more than a vector of each width, CIFAR-10 and -100, Tiny ImageNet,
# ImageNet, many rows for two threads.
SHAPES = [(3, 2, 1), (2, 1, 5), (4, 3, 17), (64, 2, 10), (32, 4, 100), (16, 2, 200), (9, 3, 1000), (700, 3, 65)]


def draw(shape, dtype, two_labels, seed=0):
    """Logits, target, weight, other, share; the last two None for one label."""
    generator = torch.Generator().manual_seed(seed)
    logits = (4 * torch.randn(shape, generator=generator)).to(dtype)
    labels = torch.randint(shape[2], (2, *shape[:2]), generator=generator)
    weight, share = torch.rand(2, *shape[:2], generator=generator)
    return (logits, labels[0], weight, labels[1], share) if two_labels else (logits, labels[0], weight, None, None)


def in_double(arguments):
    return tuple(value.double() if value is not None and value.is_floating_point() else value for value in arguments)


def errors(call, exact):
    """The largest error of each result, relative to the result's largest value."""
    return [
        ((got.double() - want).abs().max() / want.abs().max().clamp(min=1e-30)).item()
        for got, want in zip(call, exact, strict=True)
        if want.numel() > 0
    ]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("two_labels", "smoothing"), [(False, 0.0), (True, 0.1)])
def test_at_most_twice_the_error_of_the_reference_in_the_same_dtype(shape, dtype, two_labels, smoothing):
    arguments = (*draw(shape, dtype, two_labels), smoothing)
    exact = mixed_cross_entropy_reference(*in_double(arguments[:-1]), smoothing)
    # In float64 the reference is the exact one: then the bar is what adding up all rows may cost.
    rounding = 1e-13 if dtype == torch.float64 else torch.finfo(torch.float32).eps
    native, reference = FORWARD(*arguments), mixed_cross_entropy_reference(*arguments)
    for ours, theirs in zip(errors(native, exact), errors(reference, exact), strict=True):
        assert ours <= 2 * theirs + 4 * rounding

    # The same log-normaliser for all: an error of the forward pass is none of the backward pass.
    grad, normaliser = torch.tensor(1.5, dtype=native[0].dtype), exact[1].to(native[1].dtype)
    exact = mixed_cross_entropy_backward_reference(
        grad.double(), *in_double(arguments[:1]), normaliser.double(), *in_double(arguments[1:-1]), smoothing
    )
    arguments = (grad, arguments[0], normaliser, *arguments[1:])
    native, reference = BACKWARD(*arguments), mixed_cross_entropy_backward_reference(*arguments)
    for ours, theirs in zip(errors(native, exact), errors(reference, exact), strict=True):
        assert ours <= 2 * theirs + 4 * rounding
    assert [value.dtype for value in native] == [value.dtype for value in reference]


def layouts(logits):
    """The same logits otherwise in memory: heads outermost, classes apart, a window between NaNs, and one head for all."""
    apart = torch.full((*logits.shape, 2), torch.nan)
    apart[..., 0] = logits
    batch, heads, classes = logits.shape
    window = torch.full((batch + 2, heads + 2, classes + 6), torch.nan)[1:-1, 1:-1, 3:-3]
    window.copy_(logits)
    return {
        "heads outermost": logits.transpose(0, 1).contiguous().transpose(0, 1),
        "classes outermost": logits.permute(2, 0, 1).contiguous().permute(1, 2, 0),
        "classes apart": apart[..., 0],
        "between NaNs": window,
    }


@pytest.mark.parametrize("layout", ["heads outermost", "classes outermost", "classes apart", "between NaNs"])
@pytest.mark.parametrize("classes", [3, 16, 37])
def test_any_memory_layout_gives_the_same_bits(layout, classes):
    logits, *labels = draw((5, 3, classes), torch.float32, True)
    laid_out = layouts(logits)[layout]
    assert not laid_out.is_contiguous()
    want, got = FORWARD(logits, *labels, 0.1), FORWARD(laid_out, *labels, 0.1)
    grad = torch.ones(())
    want += BACKWARD(grad, logits, want[1], *labels, 0.1)
    got += BACKWARD(grad, laid_out, got[1], *labels, 0.1)
    for ours, theirs in zip(got, want, strict=True):
        assert torch.equal(ours, theirs)


def test_expanded_logits_are_read_as_what_they_show():
    row, labels = torch.randn(1, 1, 7), torch.randint(7, (4, 2))
    weight = torch.ones(4, 2)
    expanded = row.expand(4, 2, 7)
    torch.testing.assert_close(
        FORWARD(expanded, labels, weight, None, None, 0.0),
        FORWARD(expanded.contiguous(), labels, weight, None, None, 0.0),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_logits_agree_with_the_reference(dtype):
    inf, huge = torch.inf, torch.finfo(dtype).max / 4
    rows = [
        [inf, 0.0, 1.0],
        [-inf, 0.0, 1.0],
        [-inf, -inf, -inf],
        [torch.nan, 0.0, 1.0],
        [huge, -huge, 0.0],
        [-huge] * 3,
    ]
    logits = torch.tensor(rows, dtype=dtype)[:, None]
    target, weight = torch.ones(len(rows), 1, dtype=torch.int64), torch.ones(len(rows), 1, dtype=dtype)
    ours, theirs = (
        call(logits, target, weight, None, None, 0.0)[1] for call in (FORWARD, mixed_cross_entropy_reference)
    )
    torch.testing.assert_close(ours, theirs, equal_nan=True)
    arguments = (torch.ones((), dtype=dtype), logits, theirs, target, weight, None, None, 0.0)
    for got, want in zip(BACKWARD(*arguments), mixed_cross_entropy_backward_reference(*arguments), strict=True):
        torch.testing.assert_close(got, want, equal_nan=True)


def test_probabilities_far_below_one_keep_their_relative_precision():
    """Down to the smallest normal number; the reference is exp in float64."""
    logits = torch.linspace(-87, 0, 4001)[None, None]
    zeros = torch.zeros(1, 1, dtype=torch.int64)
    grad, _, _ = BACKWARD(torch.ones(()), logits, torch.zeros(1, 1), zeros, torch.ones(1, 1), None, None, 0.0)
    exact = logits.double().exp()
    assert ((grad - exact)[..., 1:] / exact[..., 1:]).abs().max() < 4 * torch.finfo(torch.float32).eps


def test_the_same_bits_for_one_thread_and_two():
    arguments = (*draw((3000, 3, 130), torch.float32, True), 0.1)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            loss, normaliser = FORWARD(*arguments)
            grads = BACKWARD(torch.ones(()), arguments[0], normaliser, *arguments[1:])
            results.append((loss, normaliser, *grads))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))


@pytest.mark.parametrize("label", [-1, 5, 2**40, -(2**63)])
@pytest.mark.parametrize("argument", ["target", "other"])
def test_labels_out_of_range_are_refused(label, argument):
    logits, target, weight, other, share = draw((3, 2, 5), torch.float32, True)
    {"target": target, "other": other}[argument][2, 1] = label
    with pytest.raises(IndexError, match=argument):
        FORWARD(logits, target, weight, other, share, 0.0)
    with pytest.raises(IndexError, match=argument):
        BACKWARD(torch.ones(()), logits, torch.ones(3, 2), target, weight, other, share, 0.0)


def test_empty_batch():
    arguments = draw((0, 2, 5), torch.float32, True)
    loss, normaliser = FORWARD(*arguments, 0.0)
    grads = BACKWARD(torch.ones(()), arguments[0], normaliser, *arguments[1:], 0.0)
    assert loss == 0 and normaliser.shape == (0, 2)
    assert [value.shape for value in grads] == [(0, 2, 5), (0, 2), (0, 2)]


def test_weights_in_another_dtype_keep_it_for_their_gradient():
    logits, target, weight, other, share = draw((4, 2, 6), torch.float32, True)
    for dtype in (torch.float64, torch.bfloat16):
        arguments = (logits, target, weight.to(dtype), other, share.to(dtype), 0.1)
        exact = mixed_cross_entropy_reference(*in_double(arguments[:-1]), 0.1)[0]
        torch.testing.assert_close(FORWARD(*arguments)[0].double(), exact, rtol=1e-5, atol=1e-6)
        _, grad_weight, grad_share = BACKWARD(torch.ones(()), logits, FORWARD(*arguments)[1], *arguments[1:])
        assert grad_weight.dtype == dtype and grad_share.dtype == dtype


def test_rows_beyond_four_gigabytes():
    """Most of the memory is never touched, so never there."""
    far = torch.empty(2**31 + 40, dtype=torch.bfloat16).as_strided((2, 1, 20), (2**31, 20, 1))
    far.copy_(torch.randn(2, 1, 20))
    labels, weight = torch.tensor([[3], [4]]), torch.ones(2, 1)
    torch.testing.assert_close(
        FORWARD(far, labels, weight, None, None, 0.0), FORWARD(far.contiguous(), labels, weight, None, None, 0.0)
    )
