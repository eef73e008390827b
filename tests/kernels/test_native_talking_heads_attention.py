"""The C++ talking_heads_attention against float64, over the sizes, dtypes and layouts that its loops treat differently."""

from __future__ import annotations

import os

import pytest
import torch
from guards import assert_within_twice, surrounded
from hypothesis import given, settings
from hypothesis import strategies as st
from mixfast_kernels.talking_heads_attention import (
    talking_heads_attention_backward_reference,
    talking_heads_attention_reference,
)
from running import needs_native, run_pytest

pytestmark = needs_native

FORWARD = torch.ops.mixfast.talking_heads_attention
BACKWARD = torch.ops.mixfast.talking_heads_attention_backward
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
# batch, positions, heads, width of a head
SHAPES = {
    "CaiT-XXS, CIFAR": (17, 64, 4, 48),  # more samples than tasks: one task a sample
    "CaiT-XS, ImageNet-100": (2, 196, 6, 48),  # a sample's rows in several tasks
    "one sample": (1, 65, 3, 5),  # a task for every tile, the last one of a single row
    "one position": (3, 1, 8, 64),
    "one head": (2, 7, 1, 1),
    "nine heads": (2, 33, 9, 17),  # blocks of heads of unequal size
}


def randn(*shape, seed, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def arguments_of(shape, dtype, parameters=None):
    """The operator's tensors and a gradient of its result."""
    batch, count, heads, width = shape
    parameters = parameters or dtype
    sizes = ((heads, heads), (heads,), (heads, heads), (heads,))
    qkv = randn(batch, count, 3, heads, width, seed=0, dtype=dtype)
    mixing = (randn(*size, seed=seed, dtype=parameters) for seed, size in enumerate(sizes, 1))
    return (qkv, *mixing), randn(batch, count, heads, width, seed=9, dtype=dtype)


def results_of(forward, backward, tensors, grad, scale):
    qkv, pre_weight, _, post_weight, post_bias = tensors
    result, logsumexp = forward(*tensors, scale)
    return result, logsumexp, *backward(grad, qkv, logsumexp, pre_weight, post_weight, post_bias, scale)


def all_results(tensors, grad, scale=0.3):
    """Those of the operator, of the plain form, and of the plain form in float64, each with its name."""
    reference = (talking_heads_attention_reference, talking_heads_attention_backward_reference)
    got = results_of(FORWARD, BACKWARD, tensors, grad, scale)
    plain = results_of(*reference, tensors, grad, scale)
    exact = results_of(*reference, tuple(value.double() for value in tensors), grad.double(), scale)
    names = ("result", "logsumexp", "qkv", "pre_weight", "post_weight", "post_bias")
    assert all(value.isfinite().all() for value in got)
    return zip(names, got, plain, exact, strict=True)


def check(tensors, grad):
    """Values and all gradients: at most twice the error that the plain form makes in the same dtype. In float64, which has
    nothing more exact to be held to, the two differ by roundings of the numbers that they add up."""
    for name, got, plain, exact in all_results(tensors, grad):
        if grad.dtype == torch.float64:
            torch.testing.assert_close(got, exact, rtol=1e-12, atol=1e-12 * float(exact.abs().max()))
        else:
            assert_within_twice(got, plain, exact, name, roundings=8)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients(shape, dtype):
    check(*arguments_of(SHAPES[shape], dtype))


@pytest.mark.parametrize("parameters", DTYPES)
def test_parameters_of_another_dtype(parameters):
    check(*arguments_of((2, 20, 4, 12), torch.bfloat16, parameters))


def channels_apart(value):
    return torch.stack((value, value), -1)[..., 0]


def heads_first(value):
    """As if every head had been computed on its own: [.., h, N, ..]."""
    return value.transpose(1, -2).contiguous().transpose(1, -2)


def among_others(value):
    """A slice of something wider, with rows that begin anywhere."""
    return torch.nn.functional.pad(value, (3, 2))[..., 3:-2]


def repeated(value):
    return value[:1].expand(value.shape)


@pytest.mark.parametrize("layout", [channels_apart, heads_first, among_others, repeated])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layouts(layout, dtype):
    (qkv, *mixing), grad = arguments_of((3, 18, 4, 20), dtype)
    check((layout(qkv), *(value.t() for value in mixing)), layout(grad))


@settings(deadline=None, max_examples=60)
@given(
    batch=st.integers(1, 4),
    count=st.integers(1, 70),
    heads=st.integers(1, 9),
    width=st.integers(1, 70),
    dtype=st.sampled_from(DTYPES),
)
def test_any_shape(batch, count, heads, width, dtype):
    """For sums that are near 0 by chance a bar that only a wrong element reaches: numbers of order 1 are added up."""
    for name, got, _, exact in all_results(*arguments_of((batch, count, heads, width), dtype)):
        sums = torch.promote_types(dtype, torch.float32)
        allowed = 2 * torch.finfo(got.dtype).eps * exact.abs() + 1000 * torch.finfo(sums).eps * exact.abs().max().clamp(
            1
        )
        assert ((got.double() - exact).abs() <= allowed).all(), name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(2, 17, 3, 5), (1, 49, 4, 48), (2, 1, 1, 1)])
def test_reads_and_writes_nothing_beside_its_tensors(shape, dtype, poisoned_outputs):
    tensors, grad = arguments_of(shape, dtype)
    check(tuple(surrounded(value) for value in tensors), surrounded(grad))


def test_a_value_that_is_not_a_number_stays_in_its_sample():
    tensors, grad = arguments_of((3, 20, 4, 8), torch.float32)
    expected = results_of(FORWARD, BACKWARD, tensors, grad, 0.3)
    tensors[0][1, 5, 1, 2, 3] = float("nan")
    got = results_of(FORWARD, BACKWARD, tensors, grad, 0.3)
    for value, right in zip(got[:3], expected[:3], strict=True):
        assert value[1].isnan().any()
        assert torch.equal(value[[0, 2]], right[[0, 2]])
    assert got[3].isnan().all()


@pytest.fixture
def with_threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("shape", [(24, 64, 4, 48), (3, 70, 4, 16)])
def test_the_same_bits_for_any_number_of_threads(shape, with_threads):
    tensors, grad = arguments_of(shape, torch.float32)
    results = []
    for count in (1, 2, 3, 2):
        with_threads(count)
        results.append(results_of(FORWARD, BACKWARD, tensors, grad, 0.3))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_no_matrix_of_all_logits_is_held(with_threads):
    """[B, h, N, N] would take 1.6 GB; the process may grow by a tenth of that."""
    import resource

    with_threads(1)
    tensors, grad = arguments_of((1, 10000, 4, 4), torch.float32)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    results_of(FORWARD, BACKWARD, tensors, grad, 0.3)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * 1024 < 160e6


def test_tokens_beyond_four_gigabytes():
    """Most of the memory is never touched, so never there."""
    tensors, grad = arguments_of((2, 4, 2, 6), torch.bfloat16)
    far = torch.empty(2**31 + 200, dtype=torch.bfloat16).as_strided(tensors[0].shape, (2**31, 36, 12, 6, 1))
    far.copy_(tensors[0])
    near = results_of(FORWARD, BACKWARD, tensors, grad, 0.3)
    for value, right in zip(results_of(FORWARD, BACKWARD, (far, *tensors[1:]), grad, 0.3), near, strict=True):
        assert torch.equal(value, right)


(QKV, SQUARE, ROW, _, _), GRAD = arguments_of((2, 7, 4, 5), torch.float32)
ROWS = torch.zeros(2, 4, 7)


@pytest.mark.parametrize(
    "tensors",
    [
        (QKV[0], SQUARE, ROW, SQUARE, ROW),
        (QKV[:, :, :2], SQUARE, ROW, SQUARE, ROW),
        (QKV[:, :0], SQUARE, ROW, SQUARE, ROW),
        (QKV, SQUARE[:3], ROW, SQUARE, ROW),
        (QKV, SQUARE, ROW, SQUARE[:3], ROW),
        (QKV, SQUARE, ROW, SQUARE, ROW[:3]),
        (QKV.int(), SQUARE, ROW, SQUARE, ROW),
    ],
)
def test_the_bare_operator_refuses_what_it_would_read_out_of_bounds(tensors):
    qkv, pre_weight, _, post_weight, post_bias = tensors
    with pytest.raises(RuntimeError):
        FORWARD(*tensors, 0.3)
    with pytest.raises(RuntimeError):
        BACKWARD(GRAD, qkv, ROWS, pre_weight, post_weight, post_bias, 0.3)


@pytest.mark.parametrize(("grad", "rows"), [(GRAD[:1], ROWS), (GRAD.double(), ROWS), (GRAD, ROWS[:, :3])])
def test_the_backward_operator_refuses_what_does_not_belong_to_its_tokens(grad, rows):
    with pytest.raises(RuntimeError, match="grad|logsumexp"):
        BACKWARD(grad, QKV, rows, SQUARE, SQUARE, ROW, 0.3)


@pytest.mark.parametrize("instructions", ["default", "avx2"])
def test_other_instruction_sets(instructions):
    """The same tests again in a process that is held to older instructions."""
    if os.environ.get("ATEN_CPU_CAPABILITY"):
        pytest.skip("already held to one instruction set")
    run_pytest(__file__, {"ATEN_CPU_CAPABILITY": instructions}, "-k", "values_and or any_shape or beside_its")
