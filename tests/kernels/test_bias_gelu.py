"""bias_gelu: its definition on any backend, the C++ against float64 over what it treats differently, and what is refused."""

from __future__ import annotations

import mixfast_kernels as mk
import pytest
import torch
from guards import surrounded
from hypothesis import given, settings
from hypothesis import strategies as st
from mixfast_kernels.bias_gelu import bias_gelu_backward_reference
from running import needs_native
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
OPERATOR = torch.ops.mixfast.bias_gelu.default
BACKWARD = torch.ops.mixfast.bias_gelu_backward.default


def case(shape, dtype=torch.float32, scale=2.0):
    """x, bias and a gradient."""
    generator = torch.Generator().manual_seed(len(shape) + sum(shape))
    x, grad = (scale * torch.randn(*shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return x.to(dtype), torch.randn(shape[-1], generator=generator, dtype=torch.float64).to(dtype), grad.to(dtype)


def check(x, bias, grad):
    """Against float64: each value to a few units of the sum's precision, then rounded once."""
    unit = torch.finfo(torch.promote_types(x.dtype, torch.float32)).eps
    rounding = torch.finfo(x.dtype).eps * (x.dtype not in (torch.float32, torch.float64))
    z, wide = x.double() + bias.double(), grad.double()
    result = OPERATOR(x, bias)
    assert result.dtype == x.dtype and result.shape == x.shape and result.is_contiguous()
    exact = F.gelu(z)
    # The sum's own rounding moves z, and with it the result by at most 1.13 of that; float16 has small numbers of few bits.
    moved = unit * (x.double().abs() + bias.double().abs())
    least = torch.finfo(x.dtype).smallest_normal * torch.finfo(x.dtype).eps
    allowed = 2 * moved + 4 * unit * exact.abs() + rounding * exact.abs() + least
    assert ((result.double() - exact).abs() <= allowed).all()

    grad_x, grad_bias = BACKWARD(grad, x, bias)
    exact_x, exact_bias = bias_gelu_backward_reference(wide, x.double(), bias.double())
    assert grad_x.dtype == x.dtype and grad_x.shape == x.shape and grad_bias.dtype == bias.dtype
    slope = moved + 4 * unit * (1 + z.abs())
    assert ((grad_x.double() - exact_x).abs() <= slope * wide.abs() + rounding * exact_x.abs() + least).all()
    summed = (slope * wide.abs() + x.numel() ** 0.5 * unit * exact_x.abs()).sum_to_size(bias.shape)
    allowed = summed + torch.finfo(bias.dtype).eps * exact_bias.abs() + least
    assert ((grad_bias.double() - exact_bias).abs() <= allowed).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(5,), (1, 16), (3, 33), (2, 3, 64), (70, 1), (257, 40), (0, 4), (4, 0), (2, 0, 3)])
def test_against_float64(shape, dtype):
    check(*case(shape, dtype))


@needs_native
def test_a_large_result_is_written_past_the_caches_alike():
    check(*case((700, 1537)))


@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(0, 90),
    width=st.integers(1, 100),
    dtype=st.sampled_from(DTYPES),
    scale=st.sampled_from([0.1, 2.0, 8.0]),
    layout=st.sampled_from(["contiguous", "gaps", "transposed", "expanded"]),
)
def test_any_shape_and_layout(rows, width, dtype, scale, layout):
    x, bias, grad = case((rows, width), dtype, scale)
    seen = {
        "contiguous": lambda t: t,
        "gaps": lambda t: torch.cat((t, t), -1)[..., : t.shape[-1]],
        "transposed": lambda t: t.T.contiguous().T,
        "expanded": lambda t: t[:1].expand(t.shape),
    }[layout]
    check(seen(x), bias, seen(grad))


@needs_native
def test_small_probabilities_have_their_digits():
    """Not only their sum with 1: below z = -6 torch's own float32 has none left."""
    z = torch.linspace(-12.5, 0, 5001, dtype=torch.float64).float()
    exact = 0.5 * z.double() * torch.special.erfc(-z.double() / 2**0.5)
    error = (OPERATOR(z[None], torch.zeros(len(z)))[0].double() - exact).abs()
    # exp(-z^2 / 2) moves by z^2 / 2 roundings where z^2 moves by one.
    assert (error <= exact.abs() * torch.finfo(torch.float32).eps * (4 + z.double().square())).all()


@needs_native
def test_what_is_infinite_or_not_a_number():
    inf, nan = torch.inf, torch.nan
    x = torch.tensor([[nan, inf, 1e30, -1e30, 30.0, -30.0, 0.0]])
    grad, bias = torch.ones_like(x), torch.zeros(7)
    result, (grad_x, grad_bias) = OPERATOR(x, bias)[0], BACKWARD(grad, x, bias)
    torch.testing.assert_close(result, torch.tensor([nan, inf, 1e30, 0, 30, 0, 0]), equal_nan=True, rtol=0, atol=0)
    torch.testing.assert_close(grad_x[0, 2:], torch.tensor([1.0, 0, 1, 0, 0.5]), rtol=0, atol=0)
    assert grad_x[0, 0].isnan() and torch.equal(grad_bias[2:], grad_x[0, 2:])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(3, 37), (2, 64), (40, 3)])
@needs_native
def test_reads_and_writes_nothing_beside_its_tensors(shape, dtype, poisoned_outputs):
    check(*map(surrounded, case(shape, dtype)))


@needs_native
def test_the_same_bits_on_any_number_of_threads():
    x, bias, grad = case((1000, 600))
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append((OPERATOR(x, bias), *BACKWARD(grad, x, bias)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


def test_gradients():
    x, bias, _ = case((2, 3, 5), torch.float64)
    tensors = [value.requires_grad_() for value in (x, bias)]
    assert torch.autograd.gradcheck(mk.bias_gelu, tensors)
    assert torch.autograd.gradgradcheck(mk.bias_gelu, tensors)


def test_under_torchs_machinery():
    x, bias, grad = case((2, 12))
    torch.library.opcheck(OPERATOR, (x, bias))
    torch.library.opcheck(OPERATOR, tuple(value.clone().requires_grad_() for value in (x, bias)))
    torch.library.opcheck(BACKWARD, (grad, x, bias))
    expected = F.gelu(x + bias)
    torch.testing.assert_close(torch.compile(mk.bias_gelu, fullgraph=True)(x, bias), expected)
    stacked = torch.stack((x, 2 * x))
    torch.testing.assert_close(torch.vmap(lambda one: mk.bias_gelu(one, bias))(stacked), F.gelu(stacked + bias))
    with torch.autocast("cpu"):
        low = mk.bias_gelu(x.bfloat16(), bias)
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), F.gelu(x.bfloat16().float() + bias), rtol=2**-8, atol=1e-6)


def test_elsewhere_it_is_left_to_the_compiler():
    x, bias, _ = case((2, 12))
    called = []

    class Calls(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            called.append(func)
            return func(*args, **(kwargs or {}))

    with Calls():
        assert mk.bias_gelu(x.to("meta"), bias.to("meta")).shape == x.shape
    assert OPERATOR not in called and torch.ops.aten.gelu.default in called


X, B = torch.randn(2, 6), torch.randn(6)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((X.tolist(), B), TypeError, "x must be .* got list"),
        ((X[0, 0], B), TypeError, r"x must be .* got \(\)"),
        ((X.int(), B), TypeError, "x must be .* got torch.int32"),
        ((X, B[:5]), ValueError, "bias must be"),
        ((X, B[None]), ValueError, "bias must be"),
        ((X, B.long()), TypeError, "bias must be"),
        ((X, None), TypeError, "bias must be"),
        ((X.to("meta"), B), ValueError, "bias must be on meta"),
    ],
)
def test_what_is_wrong_is_named(arguments, error, words):
    with pytest.raises(error, match=words):
        mk.bias_gelu(*arguments)
