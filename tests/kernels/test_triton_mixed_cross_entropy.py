"""The Triton mixed_cross_entropy against the reference in float64: shapes, layouts, dtypes and guards."""

from __future__ import annotations

import pytest
import torch
from guards import Summands, assert_within_twice, doubled
from mixfast_kernels.mixed_cross_entropy import (
    _head_losses,
    mixed_cross_entropy_backward_reference,
    mixed_cross_entropy_reference,
)
from triton_cases import needs_triton, on_device

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

pytestmark = needs_triton


def arguments(batch=5, heads=2, classes=7, dtype=torch.float32, numbers=None, two=True, smoothing=0.1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(batch, heads, classes, generator=generator, dtype=torch.float64)
    target, other = (torch.randint(classes, (batch, heads), generator=generator) for _ in range(2))
    weight, share = (torch.rand(batch, heads, generator=generator, dtype=torch.float64) for _ in range(2))
    numbers = numbers or dtype
    second = (other, share.to(numbers)) if two else (None, None)
    return logits.to(dtype), target, weight.to(numbers), *second, smoothing


def run(values, guarded=False):
    """Loss, log-normaliser and the three gradients from the launchers."""
    from mixfast_kernels._triton.mixed_cross_entropy import mixed_cross_entropy, mixed_cross_entropy_backward

    def launch(*values):
        loss, log_normaliser = mixed_cross_entropy(*values)
        grad = torch.full_like(loss, 1.7)
        return loss, log_normaliser, *mixed_cross_entropy_backward(grad, values[0], log_normaliser, *values[1:])

    return on_device(launch, *values, guarded=guarded)


def reference(values):
    loss, log_normaliser = mixed_cross_entropy_reference(*values)
    grad = torch.full_like(loss, 1.7)
    return loss, log_normaliser, *mixed_cross_entropy_backward_reference(grad, values[0], log_normaliser, *values[1:])


NAMES = ("loss", "log_normaliser", "grad_logits", "grad_weight", "grad_share")


def summands(values, exact):
    """Of every result. A probability's logarithm is the difference of a logit and the log-normaliser and is rounded as they are;
    what it is off by, the probability is off by in proportion. Logits of 16 bits are taken as they are: no factor is rounded."""
    logits, target, weight, other, share, smoothing = (doubled(value) for value in values)
    sizes, log_normaliser, scale = logits.abs(), exact[1].abs(), 1.7 * weight / len(logits)
    losses = _head_losses(-sizes, log_normaliser, target, other, share, smoothing)
    probabilities = (logits - exact[1][:, :, None]).exp()
    grad_logits = exact[2].abs() + scale[:, :, None] * probabilities * (2 + sizes + log_normaliser[:, :, None])
    grad_share = exact[4]
    if other is not None:
        labelled = sum(sizes.gather(2, label[:, :, None])[:, :, 0] for label in (target, other))
        grad_share = scale * (1 - smoothing) * labelled
    magnitudes = (
        (weight * losses).sum() / len(logits),
        log_normaliser + sizes.amax(2),
        grad_logits,
        1.7 / len(logits) * losses,
        grad_share,
    )
    return [Summands(values[0].dtype, sums, torch.zeros_like(sums)) for sums in magnitudes]


def check(values):
    exact, plain = reference(tuple(doubled(value) for value in values)), reference(values)
    results = zip(NAMES, run(values, guarded=True), exact, plain, summands(values, exact), strict=True)
    for name, got, want, same, sizes in results:
        assert got.is_contiguous(), name
        assert_within_twice(got, same, want, name, summands=sizes)


@pytest.mark.parametrize("numbers", [None, torch.float32, torch.float64])
@pytest.mark.parametrize("dtype", FLOATS)
def test_dtypes(dtype, numbers):
    check(arguments(dtype=dtype, numbers=numbers))
    check(arguments(dtype=dtype, numbers=numbers, two=False, smoothing=0.0))


# One row and less than a program's; several programs; one class; a power of two and around it; several blocks of classes.
SHAPES = [(1, 1, 3), (70, 3, 9), (3, 2, 1), (4, 4, 64), (4, 1, 65), (2, 2, 1000), (2, 1, 4096), (2, 2, 9001)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("two", [False, True])
def test_shapes(shape, two):
    for smoothing in (0.0, 0.1, 1.0):
        check(arguments(*shape, two=two, smoothing=smoothing))


def test_more_rows_than_the_adding_program_takes_at_a_time():
    check(arguments(700, 2, 3))


def test_strided_and_expanded_inputs():
    logits, target, weight, other, share, smoothing = arguments(batch=4, heads=3, classes=6)
    strided = torch.stack((logits, logits), -1)[..., 0]
    swapped = logits.transpose(0, 1).contiguous().transpose(0, 1)
    rest = (target.t().contiguous().t(), weight[:, :1].expand(4, 3), other[:1].expand(4, 3), share.t().contiguous().t())
    for view in (strided, swapped, logits[:, :, :1].expand(4, 3, 6), logits[:1].expand(4, 3, 6)):
        check((view, *rest, smoothing))


def test_infinite_logits_are_those_of_the_reference():
    values = arguments(batch=6, heads=1, classes=5000, smoothing=0.0, two=False)
    logits, target = values[0], values[1]
    logits[0, 0, 4200:] = -torch.inf
    logits[1, 0, :4200] = -torch.inf  # a whole block of them before the first finite one
    logits[2, 0, 4999] = torch.inf
    logits[3] = -torch.inf
    logits[4, 0, 17] = torch.nan
    target.copy_(torch.tensor([[3], [4999], [0], [1], [2], [3]]))
    for got, want in zip(run(values), reference(values), strict=True):
        torch.testing.assert_close(got, want, equal_nan=True)


@pytest.mark.parametrize("bad", [-100, -1, 7, 2**40])
def test_a_label_that_is_none_makes_the_loss_nan_and_reads_nothing(bad):
    for position in (1, 3):
        values = arguments()
        values[position][2, 1] = bad
        loss, log_normaliser, _, grad_weight, _ = run(values)
        assert loss.isnan() and log_normaliser.isfinite().all()
        assert grad_weight[2, 1].isnan() and grad_weight.isnan().sum() == 1


@pytest.mark.parametrize("shape", [(0, 2, 5), (0, 0, 5), (3, 0, 5)])
def test_empty_logits(shape):
    loss, log_normaliser, *grads = run(arguments(*shape))
    assert loss == 0 and log_normaliser.shape == shape[:2]
    assert [tuple(grad.shape) for grad in grads] == [shape, shape[:2], shape[:2]]


def test_the_same_bits_twice():
    values = arguments(300, 2, 10)
    for first, again in zip(run(values), run(values), strict=True):
        assert torch.equal(first, again)


def test_the_operators_are_these():
    values = arguments()
    for got, want in zip(on_device(torch.ops.mixfast.mixed_cross_entropy, *values), run(values), strict=False):
        assert torch.equal(got, want)
