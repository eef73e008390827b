"""The C++ gated_positional_attention against the reference in float64, over what it treats differently."""

from __future__ import annotations

import os

import mixfast_kernels as mk
import pytest
import torch
from attention_forms import assert_as_exact_as, reference, run
from drawing import draw_attention, randn
from guards import surrounded
from hypothesis import given, settings
from hypothesis import strategies as st
from running import needs_native, run_pytest

pytestmark = needs_native

OPERATORS = torch.ops.mixfast
SCALE = 0.3
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def native(*tensors_and_grad):
    *tensors, grad = tensors_and_grad
    operators = OPERATORS.gated_positional_attention, OPERATORS.gated_positional_attention_backward
    return run(*operators, tensors, grad, SCALE)


def check(*tensors_and_grad):
    """At most twice the error of the plain form in the same dtypes, which widens them as the operator does."""
    *tensors, grad = tensors_and_grad
    assert_as_exact_as(native(*tensors_and_grad), reference(tensors, grad, SCALE), tensors, grad, SCALE)


def case(batch, count, heads, width, dtype=torch.float32):
    return *draw_attention(batch, count, heads, width, dtype), randn(batch, count, heads, width, seed=4).to(dtype)


SHAPES = {
    "convit": (3, 64, 12, 32),
    "imagenet": (2, 196, 4, 32),  # several blocks of queries, the last one partial
    "all-tokens": (2, 128, 3, 32),
    "groups": (23, 17, 5, 24),  # more samples than groups, a last block of one head
    "past-a-vector": (2, 65, 2, 40),
    "wide": (2, 33, 2, 64),
    "odd": (3, 7, 3, 5),
    "one-channel": (2, 19, 2, 1),
    "one-token": (5, 1, 2, 6),
    "one-head": (3, 16, 1, 16),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_shapes(shape, dtype):
    check(*case(*SHAPES[shape], dtype))


@pytest.mark.parametrize("width", [32, 40])
def test_results_that_are_written_past_the_caches_or_not(width):
    """From 4 MiB on, where rows fill cache lines."""
    check(*case(16, 64, 32, width))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("other", DTYPES)
def test_positional_and_gate_of_other_dtypes(dtype, other):
    qkv, positional, gate, grad = case(3, 18, 2, 20, dtype)
    check(qkv, positional.to(other), gate.to(other), grad)


@settings(deadline=None, max_examples=40)
@given(
    batch=st.integers(1, 4),
    count=st.integers(1, 70),
    heads=st.integers(1, 6),
    width=st.integers(1, 40),
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(["contiguous", "gaps", "heads-first", "spread", "expanded"]),
)
def test_any_shape_and_layout(batch, count, heads, width, dtype, layout):
    qkv, positional, gate, grad = case(batch, count, heads, width, dtype)
    seen = {
        "contiguous": lambda t: t,
        "gaps": lambda t: torch.cat((t, t), -1)[..., : t.shape[-1]],
        "heads-first": lambda t: t.transpose(1, -2).contiguous().transpose(1, -2),
        "spread": lambda t: torch.stack((t, t), -1)[..., 0],
        "expanded": lambda t: t[:1].expand(t.shape),
    }[layout]
    check(seen(qkv), positional.transpose(1, 2), seen(torch.stack((gate, gate)))[0], seen(grad))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", ["odd", "past-a-vector", "one-token", "groups"])
def test_reads_and_writes_nothing_beside_its_tensors(shape, dtype, poisoned_outputs):
    check(*map(surrounded, case(*SHAPES[shape], dtype)))


@pytest.mark.parametrize("low", [-1, 1])
def test_scores_far_from_zero(low):
    """The end of a vector past the last query, and past the last channel, must not count, nor overflow."""
    qkv, positional, gate, grad = case(2, 19, 2, 8)
    qkv[:, :, 0], qkv[:, :, 1] = 6 * qkv[:, :, 0].abs(), low * 6 * qkv[:, :, 1].abs()
    check(qkv, positional, gate, grad)


def test_what_is_not_a_number_stays_in_its_head_and_sample():
    qkv, positional, gate, grad = case(3, 9, 2, 8)
    expected = native(qkv, positional, gate, grad)[0]
    qkv[1, 4, 0, 1, 3] = float("nan")
    result = native(qkv, positional, gate, grad)[0]
    assert result[1, 4, 1].isnan().all()
    result[1, 4, 1] = expected[1, 4, 1]
    assert torch.equal(result, expected)


@pytest.fixture
def with_threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("shape", [(23, 64, 5, 32), (16, 64, 32, 32), (3, 30, 1, 8)])
def test_the_same_bits_for_any_number_of_threads(shape, with_threads):
    tensors, results = case(*shape), []
    for count in (1, 2, 3, 7, 2):
        with_threads(count)
        results.append(native(*tensors))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_strides_beyond_four_gigabytes():
    """Most of the memory is never touched, so never there."""
    qkv, positional, gate, grad = case(2, 5, 2, 8, torch.bfloat16)
    far = torch.empty(2**31 + 240, dtype=torch.bfloat16).as_strided(qkv.shape, (2**31, *qkv.stride()[1:]))
    far.copy_(qkv)
    for got, expected in zip(native(far, positional, gate, grad), native(qkv, positional, gate, grad), strict=True):
        assert torch.equal(got, expected)


Q, P, G, L, D = (
    torch.ones(2, 4, 3, 2, 5),
    torch.ones(2, 4, 4),
    torch.ones(2),
    torch.ones(2, 2, 4),
    torch.ones(2, 4, 2, 5),
)


@pytest.mark.parametrize(
    "arguments",
    [
        (Q[0], P, G),
        (Q[:, :, :2], P, G),
        (Q[:, :0], P[:, :0, :0], G),
        (Q[..., :0], P, G),
        (Q, P[:, :3], G),
        (Q, P[:1], G),
        (Q, P, G[:1]),
        (Q.int(), P, G),
    ],
)
def test_the_bare_operator_refuses_what_it_would_read_out_of_bounds(arguments):
    with pytest.raises(RuntimeError):
        OPERATORS.gated_positional_attention(*arguments, 1.0)
    with pytest.raises(RuntimeError):
        OPERATORS.gated_positional_attention_backward(D, *arguments, L, 1.0)


@pytest.mark.parametrize("grad", [D[:1], D[:, :, :, :4], D.double()])
def test_a_gradient_unlike_the_result_is_refused(grad):
    with pytest.raises(RuntimeError, match="grad must be"):
        OPERATORS.gated_positional_attention_backward(grad, Q, P, G, L, 1.0)


def test_a_logsumexp_of_another_shape_is_refused():
    with pytest.raises(RuntimeError, match="logsumexp must be"):
        OPERATORS.gated_positional_attention_backward(D, Q, P, G, L[:, :1], 1.0)


@pytest.mark.parametrize("instructions", ["default", "avx2"])
def test_other_instruction_sets(instructions):
    """The same tests again in a process that is held to older instructions."""
    if os.environ.get("ATEN_CPU_CAPABILITY"):
        pytest.skip("already held to one instruction set")
    run_pytest(__file__, {"ATEN_CPU_CAPABILITY": instructions}, "-k", "test_shapes or far_from or beside_its")


def test_the_public_function_runs_it():
    qkv, positional, gate, _ = case(2, 7, 2, 4)
    expected = OPERATORS.gated_positional_attention(qkv, positional, gate, 0.5)[0]
    assert torch.equal(mk.gated_positional_attention(qkv, positional, gate), expected)
