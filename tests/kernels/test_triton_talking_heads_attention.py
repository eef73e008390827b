"""The Triton talking_heads_attention against float64, over the shapes and dtypes that its kernels treat differently."""

from __future__ import annotations

import pytest
import torch
from guards import assert_within_twice, doubled
from mixfast_kernels.talking_heads_attention import (
    talking_heads_attention_backward_reference,
    talking_heads_attention_reference,
)
from triton_cases import (
    furthest,
    guarded_call,
    interpreted_only,
    last_program,  # noqa: F401
    needs_triton,
    plain_forms,
)

pytestmark = needs_triton

# batch, positions, heads, width of a head
SHAPES = {
    "cait-xxs": (1, 33, 4, 48),  # three tiles of rows, the last of one row
    "cait-xs": (1, 18, 6, 48),
    "two-steps": (1, 70, 2, 5),  # of a loop over keys or queries; the second one is not full
    "odd": (2, 17, 3, 5),
    "one-position": (3, 1, 1, 16),
    "largest": (1, 5, 8, 64),
}
SCALE = 0.3


def randn(*shape, seed, dtype):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def launchers():
    from mixfast_kernels._triton import talking_heads_attention

    return talking_heads_attention.talking_heads_attention, talking_heads_attention.talking_heads_attention_backward


def arguments_of(shape, dtype, parameters=None):
    """The operator's tensors and a gradient of its result."""
    batch, count, heads, width = shape
    parameters = parameters or dtype
    sizes = ((heads, heads), (heads,), (heads, heads), (heads,))
    mixing = (randn(*size, seed=seed, dtype=parameters) for seed, size in enumerate(sizes, 1))
    qkv = randn(batch, count, 3, heads, width, seed=0, dtype=dtype)
    return (qkv, *mixing), randn(batch, count, heads, width, seed=9, dtype=dtype)


def assert_as_exact(results, plain, exact):
    """Where sums are in float64 (the first result's dtype) nothing is more exact: the two differ by roundings of the numbers
    that they add up, of order 1 or more."""
    for got, same, right in zip(results, plain, exact, strict=True):
        if results[0].dtype == torch.float64:
            torch.testing.assert_close(got, right, rtol=1e-12, atol=1e-12 * float(right.abs().max().clamp(1)))
        else:
            assert_within_twice(got, same, right, roundings=8)


def check(tensors, grad):
    forward, backward = launchers()
    reference, backward_reference = talking_heads_attention_reference, talking_heads_attention_backward_reference
    exact_tensors = [doubled(value) for value in tensors]
    results = guarded_call(forward, *tensors, SCALE)
    exact = reference(*exact_tensors, SCALE)
    assert_as_exact(results, reference(*tensors, SCALE), exact)
    qkv, pre_weight, _, post_weight, post_bias = tensors
    grads = guarded_call(backward, grad, qkv, results[1], pre_weight, post_weight, post_bias, SCALE)
    plain = plain_forms(backward_reference, grad, qkv, results[1], pre_weight, post_weight, post_bias, SCALE)
    qkv, pre_weight, _, post_weight, post_bias = exact_tensors
    exact = backward_reference(grad.double(), qkv, exact[1], pre_weight, post_weight, post_bias, SCALE)
    assert_as_exact(grads, furthest(plain, exact), exact)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_stay_in_bounds_and_as_exact_as_the_reference(shape, dtype):
    check(*arguments_of(SHAPES[shape], dtype))


@pytest.mark.parametrize("shape", [(1, 5, 9, 4), (1, 5, 2, 65)])
def test_more_or_wider_heads_than_registers_hold_are_the_references(shape):
    (qkv, pre_weight, pre_bias, post_weight, post_bias), grad = arguments_of(shape, torch.float32)
    forward, backward = launchers()
    results = forward(qkv, pre_weight, pre_bias, post_weight, post_bias, SCALE)
    expected = talking_heads_attention_reference(qkv, pre_weight, pre_bias, post_weight, post_bias, SCALE)
    rest = (grad, qkv, expected[1], pre_weight, post_weight, post_bias, SCALE)
    for got, want in zip(
        (*results, *backward(*rest)), (*expected, *talking_heads_attention_backward_reference(*rest)), strict=True
    ):
        assert torch.equal(got, want)


@pytest.mark.parametrize("parameters", [torch.float32, torch.float64])
def test_parameters_of_another_dtype(parameters):
    check(*arguments_of((1, 20, 3, 8), torch.bfloat16, parameters))


@pytest.mark.parametrize("view", ["heads-first", "channels", "strided", "expanded"])
def test_views_of_tokens_and_gradients(view):
    tensors, grad = arguments_of((2, 18, 3, 8), torch.float32)

    def seen(values):
        return {
            "heads-first": values.transpose(1, -2).contiguous().transpose(1, -2),
            "channels": torch.cat((values, values), -1)[..., 5:13],
            "strided": torch.stack((values, values), -1)[..., 0],
            "expanded": values[:1].expand(values.shape),
        }[view]

    check((seen(tensors[0]), *(value.t() for value in tensors[1:])), seen(grad))


@interpreted_only
def test_another_batch_needs_no_other_kernel(monkeypatch):
    """Nothing that a kernel is compiled for depends on the batch."""
    from mixfast_kernels._triton import talking_heads_attention as module
    from triton.runtime.interpreter import InterpretedFunction

    compiled_for = []

    def record(kernel, *args, grid, warmup, **constants):
        numbers = [value for value in args if not isinstance(value, torch.Tensor)]
        compiled_for.append((kernel.fn.__name__, numbers, constants))

    monkeypatch.setattr(InterpretedFunction, "run", record)
    calls = []
    for batch in (1, 2, 16, 17):
        (qkv, pre_weight, pre_bias, post_weight, post_bias), grad = arguments_of((batch, 20, 3, 8), torch.float32)
        compiled_for.clear()
        module.talking_heads_attention(qkv, pre_weight, pre_bias, post_weight, post_bias, SCALE)
        rows = torch.empty(batch, 3, 20)
        module.talking_heads_attention_backward(grad, qkv, rows, pre_weight, post_weight, post_bias, SCALE)
        calls.append(list(compiled_for))
    assert len(calls[0]) == 6 and all(call == calls[0] for call in calls)


@interpreted_only
def test_strides_beyond_32_bits():
    """Two samples 2^31 elements apart, then two tokens; memory that is never touched costs nothing."""
    tensors, grad = arguments_of((2, 4, 2, 8), torch.float16)
    forward, backward = launchers()

    def results(tokens, gradient):
        _, pre_weight, _, post_weight, post_bias = tensors
        result, logsumexp = forward(tokens, *tensors[1:], SCALE)
        grads = backward(gradient, tokens, logsumexp, pre_weight, post_weight, post_bias, SCALE)
        return result, logsumexp, *grads

    expected = results(tensors[0], grad)
    for far in ((2**31 + 8, 48), (48, 2**30 + 8)):
        apart = torch.empty_strided(tensors[0].shape, (*far, 16, 8, 1), dtype=torch.float16).copy_(tensors[0])
        of_result = torch.empty_strided(grad.shape, (*far, 8, 1), dtype=torch.float16).copy_(grad)
        for value, right in zip(results(apart, of_result), expected, strict=True):
            assert torch.equal(value, right)


@interpreted_only
@pytest.mark.usefixtures("last_program")
def test_results_beyond_32_bits():
    """2^31 elements and more come out; only the last tile is computed."""
    count, heads, width = 16, 2, 64
    batch = 2**31 // (count * heads * width) + 2
    (tokens, *mixing), _ = arguments_of((1, count, heads, width), torch.float16)
    qkv = tokens.expand(batch, *tokens.shape[1:])
    result, _ = launchers()[0](qkv, *mixing, SCALE)
    plain, _ = talking_heads_attention_reference(tokens, *mixing, SCALE)
    exact, _ = talking_heads_attention_reference(*(doubled(value) for value in (tokens, *mixing)), SCALE)
    assert_as_exact([result[-1:]], [plain], [exact])
