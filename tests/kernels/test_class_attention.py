"""class_attention against the plain form, which projects keys and values of every token, and under torch's machinery."""

from __future__ import annotations

import functools
import math

import mixfast_kernels as mk
import pytest
import torch
from drawing import draw_mixing
from guards import assert_within_twice
from hypothesis import given, settings
from hypothesis import strategies as st
from mixfast_kernels import Mixing
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

DOUBLE = torch.float64
NAMES = (
    "tokens", "class_token", "norm_weight", "norm_bias", "query_weight", "query_bias", "key_weight", "value_weight", "value_bias",
    "source", "inside", "outside",
)  # fmt: skip


def randn(*shape, seed, dtype=DOUBLE):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE).to(dtype).requires_grad_()


def plain_form(
    tokens, class_token, norm_weight, norm_bias, query_weight, query_bias, key_weight, value_weight, value_bias,
    source=None, inside=None, outside=None, *, heads, zone=None, eps=1e-6,
):  # fmt: skip
    """As a CaiT block computes it: a set after the other, keys and values of all tokens."""
    batch, _, width = tokens.shape
    split = (batch, -1, heads, width // heads)
    results = []
    for index in range(class_token.shape[1]):
        seen = tokens
        if zone is not None:
            weights = Mixing(inside, outside, zone.grid, zone.box, zone.bitmap).weights().flatten(2).to(tokens.dtype)
            seen = tokens + torch.einsum("bmn,md->bnd", weights, source)
        elif source is not None:
            seen = tokens + source[index]
        everything = torch.cat((class_token[:, index, None], seen), 1)
        normal = F.layer_norm(everything, (width,), norm_weight, norm_bias, eps)
        query = F.linear(normal[:, :1], query_weight, query_bias).view(split).transpose(1, 2)
        key = F.linear(normal, key_weight).view(split).transpose(1, 2)
        value = F.linear(normal, value_weight, value_bias).view(split).transpose(1, 2)
        attention = (query @ key.transpose(2, 3) / math.sqrt(width // heads)).softmax(3)
        results.append((attention @ value).transpose(1, 2).reshape(batch, width))
    return torch.stack(results, 1)


class Case:
    """``call`` and ``plain`` take the differentiable tensors in their order; ``zone``: a mix of the sources, one set."""

    def __init__(self, sets=1, sources=0, zone=None, biases=True, dtype=DOUBLE, batch=3, grid=(2, 3), width=8, heads=2):
        self.heads, self.mixing = heads, None
        tensor = functools.partial(randn, dtype=dtype)
        if zone is not None:
            mix_dtype = torch.promote_types(dtype, torch.float32)
            self.mixing = draw_mixing(zone, batch, sources, grid, dtype=mix_dtype)
        matrix = [(tensor(width, width, seed=seed).detach() / width**0.5).requires_grad_() for seed in (5, 6, 7)]
        bias = [tensor(width, seed=seed) if biases else None for seed in (8, 9)]
        self.inputs = (
            tensor(batch, grid[0] * grid[1], width, seed=1),
            tensor(batch, sets, width, seed=2),
            tensor(width, seed=3),
            tensor(width, seed=4),
            matrix[0], bias[0], matrix[1], matrix[2], bias[1],
            tensor(sources, width, seed=10) if sources else None,
            *((None, None) if zone is None else (self.mixing.inside.requires_grad_(), self.mixing.outside.requires_grad_())),
        )  # fmt: skip

    def call(self, *tensors):
        *rest, source, inside, outside = tensors
        mixing = None
        if self.mixing is not None:
            mixing = Mixing(inside, outside, self.mixing.grid, self.mixing.box, self.mixing.bitmap)
        return mk.class_attention(*rest, num_heads=self.heads, source=source, mixing=mixing)

    def plain(self, *tensors):
        return plain_form(*tensors, heads=self.heads, zone=self.mixing)

    @property
    def held(self):
        return [position for position, value in enumerate(self.inputs) if value is not None]

    @property
    def tensors(self):
        return tuple(self.inputs[position] for position in self.held)

    def of_tensors(self, function, *tensors):
        """The function of the tensors that there are."""
        arguments = [None] * len(self.inputs)
        for position, tensor in zip(self.held, tensors, strict=True):
            arguments[position] = tensor
        return function(*arguments)

    def function(self, *tensors):
        return self.of_tensors(self.call, *tensors)

    def plain_function(self, *tensors):
        return self.of_tensors(self.plain, *tensors)


ZONES = ("none", "box", "bitmap", "coverage")
CASES = {
    "one-set": Case,
    "no-biases": functools.partial(Case, biases=False),
    **{f"shared-S{s}": functools.partial(Case, sets=s) for s in (2, 3)},
    **{f"sources-M{m}": functools.partial(Case, sets=m, sources=m) for m in (1, 2, 3, 4)},
    **{f"mixed-{zone}": functools.partial(Case, sources=2, zone=zone) for zone in ZONES},
    **{f"mixed-M{m}": functools.partial(Case, sources=m, zone="box") for m in (1, 3, 4)},
    "one-head": functools.partial(Case, heads=1),
    "as-many-heads-as-numbers": functools.partial(Case, heads=8),
    "odd": functools.partial(Case, sets=2, sources=2, grid=(5, 7), width=21, heads=3),
    "one-token": functools.partial(Case, sources=2, zone="box", grid=(1, 1)),
}
SOME = ("shared-S2", "sources-M2", "mixed-coverage")


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]()


def gradients(function, tensors, cotangent):
    result = function(*tensors)
    return result.detach(), torch.autograd.grad(result, tensors, cotangent.to(result.dtype), materialize_grads=True)


@pytest.mark.parametrize("options", [{}, {"sets": 3, "sources": 3}, {"sources": 2, "zone": "box"}, {"batch": 6}])
def test_a_class_token_for_all_is_that_of_each(options):
    case = Case(**options)
    tokens, class_token, *rest = case.inputs
    shared = class_token[:1, :1].detach().requires_grad_()
    cotangent = randn(*class_token.shape, seed=20).detach()

    def of_each(*held):
        everywhere = held[1].expand(class_token.shape)
        return case.of_tensors(case.call, held[0], everywhere, *held[2:])

    held = (tokens, shared, *(value for value in rest if value is not None))
    got, got_grads = gradients(case.function, held, cotangent)
    expected, expected_grads = gradients(of_each, held, cotangent)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    for one, other in zip(got_grads, expected_grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-11)


def test_values_and_gradients_are_those_of_the_plain_form(case):
    cotangent = randn(*case.function(*case.tensors).shape, seed=20).detach()
    got, got_grads = gradients(case.function, case.tensors, cotangent)
    expected, expected_grads = gradients(case.plain_function, case.tensors, cotangent)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-10)
    for position, one, other in zip(case.held, got_grads, expected_grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-9, msg=lambda m, p=position: f"{NAMES[p]}: {m}")


def test_gradients_and_their_gradients_are_those_of_finite_differences(case):
    assert torch.autograd.gradcheck(case.function, case.tensors, fast_mode=True)
    assert torch.autograd.gradgradcheck(case.function, case.tensors, fast_mode=True)


@settings(deadline=None, max_examples=40)
@given(
    batch=st.integers(1, 4),
    grid=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    heads=st.integers(1, 7),
    each=st.integers(1, 9),
    sources=st.integers(0, 4),
    zone=st.sampled_from((None, *ZONES)),
    sets=st.integers(1, 3),
)
def test_any_shape(batch, grid, heads, each, sources, zone, sets):
    mixed = sources > 0 and zone is not None
    sets = 1 if mixed else sources or sets
    drawn = Case(sets, sources, zone if mixed else None, batch=batch, grid=grid, width=heads * each, heads=heads)
    test_values_and_gradients_are_those_of_the_plain_form(drawn)


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision_errs_at_most_twice_as_much_as_the_plain_form(name, dtype):
    """Against float64 arithmetic on the rounded inputs, forward and backward."""
    case = CASES[name](dtype=dtype, grid=(4, 5), width=32, heads=4, batch=4)
    exact = [tensor.detach().double().requires_grad_() for tensor in case.tensors]
    cotangent = randn(*case.function(*case.tensors).shape, seed=20, dtype=dtype).detach()
    got, got_grads = gradients(case.function, case.tensors, cotangent)
    plain, plain_grads = gradients(case.plain_function, case.tensors, cotangent)
    right, right_grads = gradients(case.plain_function, exact, cotangent)
    assert got.dtype == dtype
    # A few roundings of the dtype itself, where the plain form hits the exact value by luck.
    floor = 2 * torch.finfo(dtype).eps / torch.finfo(torch.float32).eps if dtype != torch.float32 else 8
    assert_within_twice(got, plain, right, "result", floor)
    for position, *grads in zip(case.held, got_grads, plain_grads, right_grads, strict=True):
        assert_within_twice(*grads, NAMES[position], floor)


def test_a_large_mean_and_a_large_score_do_no_harm():
    """Tokens far from 0, as the plain form's norm takes them; and scores that only a softmax without overflow survives."""
    case = CASES["shared-S2"](dtype=torch.float32, grid=(4, 5), width=32, heads=4)
    tensors = [tensor.detach() for tensor in case.tensors]
    tensors[0], tensors[1], tensors[4] = 300 + tensors[0], 300 + tensors[1], 300 * tensors[4]
    tensors = tuple(tensor.requires_grad_() for tensor in tensors)
    exact = tuple(tensor.detach().double().requires_grad_() for tensor in tensors)
    cotangent = randn(3, 2, 32, seed=20, dtype=torch.float32).detach()
    results = (
        gradients(function, values, cotangent)
        for function, values in (
            (case.function, tensors),
            (case.plain_function, tensors),
            (case.plain_function, exact),
        )
    )
    (got, got_grads), (plain, plain_grads), (right, right_grads) = results
    assert_within_twice(got, plain, right, "result", 64)
    for position, *grads in zip(case.held, got_grads, plain_grads, right_grads, strict=True):
        assert_within_twice(*grads, NAMES[position], 64)


def test_compiles_into_one_graph_with_the_same_values_and_gradients(case):
    compiled = torch.compile(case.function, fullgraph=True, backend="aot_eager")
    cotangent = randn(*case.function(*case.tensors).shape, seed=20).detach()
    torch.testing.assert_close(
        gradients(compiled, case.tensors, cotangent), gradients(case.function, case.tensors, cotangent)
    )


@pytest.mark.parametrize("name", ["one-set", *SOME])
def test_opcheck(name):
    """torch's own checks of schema, fake implementation and autograd registration, on the calls a case makes."""
    from torch.utils._python_dispatch import TorchDispatchMode

    calls = []

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func.namespace == "mixfast":
                calls.append((func, tuple(a.detach() if isinstance(a, torch.Tensor) else a for a in args)))
            return func(*args, **(kwargs or {}))

    case = CASES[name]()
    with Recorder():
        case.function(*case.tensors).sum().backward()
    assert len(calls) == 2
    for overload, arguments in calls:
        torch.library.opcheck(overload, arguments)


@pytest.mark.parametrize("name", SOME)
def test_vmap_equals_a_loop(name):
    case = CASES[name]()
    first, *rest = (tensor.detach() for tensor in case.tensors)
    stacked = torch.stack((first, 2 * first))
    result = torch.vmap(lambda tokens: case.function(tokens, *rest))(stacked)
    torch.testing.assert_close(result, torch.stack([case.function(tokens, *rest) for tokens in stacked]))


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("layout", ["strided", "transposed", "after-class-token", "expanded"])
def test_layouts_of_inputs_and_gradients(name, layout):
    case = CASES[name]()

    def laid_out(values):
        if layout == "strided" or values.dim() < 3:
            return torch.stack((values, values), -1)[..., 0]
        if layout == "transposed":
            return values.transpose(1, 2).contiguous().transpose(1, 2)
        if layout == "expanded":
            return values[:1].expand(values.shape)
        return torch.cat((values[:, :1], values), 1)[:, 1:]

    held = tuple(laid_out(tensor.detach()).requires_grad_() for tensor in case.tensors)
    dense = tuple(tensor.detach().contiguous().requires_grad_() for tensor in held)
    cotangent = torch.ones((), dtype=DOUBLE).expand_as(case.function(*dense))
    torch.testing.assert_close(
        gradients(case.function, held, cotangent), gradients(case.function, dense, cotangent.contiguous())
    )


@pytest.mark.parametrize("name", SOME)
def test_autocast_multiplies_in_its_dtype_and_normalises_in_float32(name):
    case = CASES[name](dtype=torch.float32, grid=(4, 5), width=32, heads=4)
    exact = [tensor.detach().double() for tensor in case.tensors]
    with torch.autocast("cpu", torch.bfloat16):
        got, plain = case.function(*case.tensors), case.plain_function(*case.tensors)
    assert got.dtype == torch.bfloat16
    assert_within_twice(got, plain, case.plain_function(*exact))
    got.float().sum().backward()
    assert all(tensor.grad.dtype == torch.float32 and tensor.grad.isfinite().all() for tensor in case.tensors)


@pytest.mark.parametrize("zone", [None, "box"])
def test_empty_batches(zone):
    case = Case(1 if zone else 2, 2, zone, batch=0)
    result = case.function(*case.tensors)
    grads = torch.autograd.grad(result.sum(), case.tensors, materialize_grads=True)
    assert result.shape == (0, 1 if zone else 2, 8)
    assert all(
        (grad == 0).all() and grad.shape == tensor.shape for grad, tensor in zip(grads, case.tensors, strict=True)
    )


def test_without_tokens_the_class_token_sees_itself():
    case = Case(sets=2, sources=2, grid=(0, 1))
    torch.testing.assert_close(case.function(*case.tensors), case.plain_function(*case.tensors))
    grads = torch.autograd.grad(case.function(*case.tensors).sum(), case.tensors, materialize_grads=True)
    assert all(grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize("name", SOME)
def test_a_token_that_is_nan_spoils_its_own_sample_only(name):
    case = CASES[name]()
    tensors = [tensor.detach() for tensor in case.tensors]
    clean = case.function(*tensors)
    tensors[0] = tensors[0].clone()
    tensors[0][1, 3, 2] = torch.nan
    result = case.function(*tensors)
    assert result[1].isnan().all()
    torch.testing.assert_close(result[::2], clean[::2])


def test_training_does_not_ask_for_gradients_of_the_mix():
    case = CASES["mixed-box"]()
    inside, outside = (value.detach() for value in case.inputs[-2:])
    result = case.call(*case.inputs[:-2], inside, outside)
    found = torch.autograd.grad(result.sum(), case.inputs[:-2])
    expected = torch.autograd.grad(case.call(*case.inputs).sum(), case.inputs[:-2])
    torch.testing.assert_close(found, expected)


def test_flops_count_the_products_with_tokens_not_of_them():
    case = Case(sets=2, sources=2, grid=(4, 5), width=32, heads=4)
    counter = FlopCounterMode(display=False)
    with counter:
        case.function(*(tensor.detach() for tensor in case.tensors))
    batch, sets, heads, keys, width = 3, 2, 4, 21, 32
    core = 2 * 2 * batch * sets * heads * keys * width
    projections = 2 * 3 * batch * sets * width * width  # query, fold of the key's matrix, value
    assert counter.flop_counts["Global"][torch.ops.mixfast.class_attention] == core
    assert counter.get_total_flops() <= core + projections + 2 * width * width


T, C, V, M = torch.randn(2, 12, 6), torch.randn(2, 2, 6), torch.ones(6), torch.ones(6, 6)
ONE = C[:, :1]
MIX = Mixing(torch.ones(2, 2), torch.ones(2, 2), (3, 4))


def wrong(tokens=T, class_token=C, norm_weight=V, norm_bias=V, query=M, key=M, value=M, bias=V, num_heads=2, **more):
    return lambda: mk.class_attention(
        tokens, class_token, norm_weight, norm_bias, query, bias, key, value, bias, num_heads=num_heads, **more
    )


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (wrong(tokens=T[0]), ValueError, "tokens"),
        (wrong(tokens=T.long()), TypeError, "tokens"),
        (wrong(class_token=torch.cat((C, C[:1]))), ValueError, "class_token must be .*B or 1.* B = 2"),
        (wrong(class_token=C[:, :0]), ValueError, "class_token"),
        (wrong(class_token=None), TypeError, "class_token"),
        (wrong(norm_weight=V[:5]), ValueError, "norm_weight"),
        (wrong(norm_bias=None), TypeError, "norm_bias"),
        (wrong(query=M[:, :5]), ValueError, "query_weight"),
        (wrong(key=M[:5]), ValueError, "key_weight"),
        (wrong(value=M.int()), TypeError, "value_weight"),
        (wrong(bias=V[:1]), ValueError, "query_bias"),
        (wrong(num_heads=4), ValueError, "num_heads"),
        (wrong(num_heads=0), ValueError, "num_heads"),
        (wrong(num_heads=2.0), TypeError, "num_heads"),
        (wrong(eps=0.0), ValueError, "eps"),
        (wrong(eps="small"), TypeError, "eps"),
        (wrong(source=torch.ones(3, 6)), ValueError, "source .* 2 sets"),
        (wrong(source=torch.ones(2, 5)), ValueError, "source"),
        (wrong(class_token=ONE, source=torch.ones(0, 6)), ValueError, "source .* at least one row"),
        (wrong(class_token=ONE, mixing=MIX), ValueError, "source"),
        (wrong(source=torch.ones(2, 6), mixing=MIX), ValueError, "class_token"),
        (wrong(class_token=ONE, source=torch.ones(3, 6), mixing=MIX), ValueError, "source .* 2 inputs"),
        (wrong(class_token=ONE, source=torch.ones(2, 6), mixing=MIX.resized((2, 2))), ValueError, "as many positions"),
        (wrong(class_token=ONE, source=torch.ones(2, 6), mixing=(1, 2)), TypeError, "mixing"),
        (wrong(class_token=ONE, source=torch.ones(2, 6), mixing=MIX.to("meta")), ValueError, "mixing must be on cpu"),
        (wrong(key=M.to("meta")), ValueError, "key_weight must be on cpu"),
    ],
)
def test_wrong_arguments_are_refused_by_name(call, error, words):
    with pytest.raises(error, match=words):
        call()
