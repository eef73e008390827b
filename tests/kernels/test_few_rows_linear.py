"""few_rows_linear: torch's linear for few rows, with errors of its own; the C++ against float64 over what it treats differently."""

from __future__ import annotations

import mixfast_kernels as mk
import pytest
import torch
from guards import assert_within_twice, surrounded
from hypothesis import given, settings
from hypothesis import strategies as st
from mixfast_kernels.few_rows_linear import MAX_ROWS, suits_few_rows
from running import needs_native
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
OPERATOR = torch.ops.mixfast.few_rows_linear.default


def randn(*shape, seed, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def case(rows, inputs, outputs, dtype=torch.float32, bias=True):
    arguments = randn(*rows, inputs, seed=1, dtype=dtype), randn(outputs, inputs, seed=2, dtype=dtype)
    return *arguments, randn(outputs, seed=3, dtype=dtype) if bias else None


def check(x, weight, bias):
    exact = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
    # What sums of rounded summands may be off by: the plain form may be near by luck in so few elements.
    sizes = F.linear(x.double().abs(), weight.double().abs(), None if bias is None else bias.double().abs())
    result = OPERATOR(x, weight, bias)
    assert result.dtype == x.dtype and result.shape == exact.shape
    unit = torch.finfo(torch.promote_types(x.dtype, torch.float32)).eps
    allowed = unit * (2 + x.shape[-1] ** 0.5) * sizes + torch.finfo(x.dtype).eps * exact.abs()
    assert ((result.double() - exact).abs() <= allowed).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "rows", [(), (1,), (2,), (1, 2), (2, 1), (3,), (4,), (5,), (6,), (7,), (2, 2, 2), (0,), (2, 0)]
)
@needs_native
def test_rows(rows, dtype):
    check(*case(rows, 37, 11, dtype))


@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(0, MAX_ROWS),
    inputs=st.integers(0, 100),
    outputs=st.integers(0, 40),
    dtype=st.sampled_from(DTYPES),
    bias=st.booleans(),
    layout=st.sampled_from(["contiguous", "gaps", "transposed", "spread", "expanded"]),
)
@needs_native
def test_any_shape_and_layout(rows, inputs, outputs, dtype, bias, layout):
    x, weight, added = case((rows,), inputs, outputs, dtype, bias)
    seen = {
        "contiguous": lambda t: t,
        "gaps": lambda t: torch.cat((t, t), -1)[..., : t.shape[-1]],
        "transposed": lambda t: t.T.contiguous().T,
        "spread": lambda t: torch.stack((t, t), -1)[..., 0],
        "expanded": lambda t: t[:1].expand(t.shape),
    }[layout]
    check(seen(x), seen(weight), added)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [((2,), 37, 11), ((3,), 64, 8), ((8,), 1, 3)])
@needs_native
def test_reads_and_writes_nothing_beside_its_tensors(shape, dtype, poisoned_outputs):
    check(*map(surrounded, case(*shape, dtype)))


@needs_native
def test_the_same_bits_on_any_number_of_threads():
    x, weight, bias = case((3,), 500, 2001)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(OPERATOR(x, weight, bias))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


@needs_native
def test_a_row_is_the_same_beside_any_others():
    x, weight, bias = case((8,), 100, 9)
    together = OPERATOR(x, weight, bias)
    for row in range(8):
        assert torch.equal(OPERATOR(x[row], weight, bias), together[row])


@needs_native
def test_what_is_not_a_number_stays_in_its_row():
    x, weight, bias = case((3,), 20, 6)
    expected = OPERATOR(x, weight, bias)
    x[1, 4] = float("nan")
    result = OPERATOR(x, weight, bias)
    assert result[1].isnan().all() and torch.equal(result[[0, 2]], expected[[0, 2]])


def test_the_gradient_is_that_of_the_plain_form():
    tensors = [value.requires_grad_() for value in case((2, 3), 5, 4, torch.float64)]
    assert torch.autograd.gradcheck(mk.few_rows_linear, tensors)
    assert torch.autograd.gradgradcheck(mk.few_rows_linear, tensors)


def test_under_torchs_machinery():
    x, weight, bias = case((2,), 12, 7)
    torch.library.opcheck(OPERATOR, (x, weight, bias))
    torch.library.opcheck(OPERATOR, tuple(value.clone().requires_grad_() for value in (x, weight, bias)))
    expected = F.linear(x, weight, bias)
    compiled = torch.compile(mk.few_rows_linear, fullgraph=True)
    torch.testing.assert_close(compiled(x, weight, bias), expected)
    stacked = torch.stack((x, 2 * x))
    torch.testing.assert_close(
        torch.vmap(lambda one: mk.few_rows_linear(one, weight, bias))(stacked), F.linear(stacked, weight, bias)
    )
    with torch.autocast("cpu"):
        cast = mk.few_rows_linear(x, weight, bias)
    assert_within_twice(cast, F.linear(*(v.bfloat16() for v in (x, weight, bias))), F.linear(x, weight, bias).double())
    with FlopCounterMode(display=False) as counter:
        mk.few_rows_linear(x, weight, bias)
    assert counter.get_total_flops() == 2 * 2 * 12 * 7


def test_it_suits_a_few_rows_without_gradients():
    x, weight, _ = case((MAX_ROWS,), 12, 7)
    assert not suits_few_rows(x, weight)
    with torch.no_grad():
        assert suits_few_rows(x, weight)
        assert not suits_few_rows(torch.cat((x, x)), weight)
        assert not suits_few_rows(x[:0], weight)
        assert not suits_few_rows(x.bfloat16(), weight)
        assert not suits_few_rows(x.to("meta"), weight)


X, W, B = torch.randn(2, 6), torch.randn(4, 6), torch.randn(4)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((X.tolist(), W, B), TypeError, "x must be .* got list"),
        ((X[0, 0], W, B), ValueError, "x must be"),
        ((X[:, :5], W, B), ValueError, "x must be"),
        ((X.double(), W, B), TypeError, "x must be .* got torch.float64"),
        ((torch.randn(3, 3, 6), W, B), ValueError, "x must have at most 8 rows in all, got 9"),
        ((X, W[0], B), ValueError, "weight must be"),
        ((X, W.int(), B), TypeError, "weight must be"),
        ((X, W, B[:3]), ValueError, "bias must be"),
        ((X, W, B.half()), TypeError, "bias must be"),
        ((X.to("meta"), W, B), ValueError, "x must be on cpu"),
    ],
)
def test_what_is_wrong_is_named(arguments, error, words):
    with pytest.raises(error, match=words):
        mk.few_rows_linear(*arguments)
