"""The C++ source_attribution against float64 arithmetic written apart from it, over what it treats differently."""

from __future__ import annotations

import os

import mixfast_kernels as mk
import pytest
import torch
from drawing import draw_mixing
from guards import surrounded
from hypothesis import given, settings
from hypothesis import strategies as st
from mixfast_kernels import Mixing
from running import needs_native, run_pytest

pytestmark = needs_native

ZONES = ("none", "box", "bitmap", "coverage")
NAN = float("nan")


def randn(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def binary(zone, batch, inputs, grid, seed=0):
    """A mix in which each zone shows one input, drawn for every sample."""
    drawn = draw_mixing(zone, batch, inputs, grid, seed=seed)
    chosen = torch.randint(inputs, (2, batch), generator=torch.Generator().manual_seed(seed))
    return Mixing(*torch.nn.functional.one_hot(chosen, inputs).float(), grid, drawn.box, drawn.bitmap)


def half_binary(zone, batch, inputs, grid, seed=0):
    """Every other sample shows one input a zone, the rest all inputs everywhere."""
    soft, hard = draw_mixing(zone, batch, inputs, grid, seed=seed), binary(zone, batch, inputs, grid, seed)
    odd = (torch.arange(batch) % 2 == 1)[:, None]
    return Mixing(
        torch.where(odd, hard.inside, soft.inside),
        torch.where(odd, hard.outside, soft.outside),
        grid,
        soft.box,
        soft.bitmap,
    )


MIXES = {"soft": draw_mixing, "binary": binary, "half": half_binary}


def dense_formula(tokens, mixing, bias, weight):
    weights = mixing.weights().flatten(2).to(tokens.dtype)
    result = tokens + torch.einsum("bmn,md->bnd", weights, bias.to(tokens.dtype))
    if weight is None:
        return result
    return result + torch.einsum("bmn,bnk,mdk->bnd", weights, tokens, weight.to(tokens.dtype))


def gradients_of(function, leaves, mixing, with_weight, grad_zones, cotangent):
    tokens, bias, *rest = leaves
    weight, zone = (rest[0] if with_weight else None), rest[with_weight:]
    zone = zone if grad_zones else (mixing.inside.to(tokens.dtype), mixing.outside.to(tokens.dtype))
    result = function(tokens, Mixing(*zone, mixing.grid, mixing.box, mixing.bitmap), bias, weight)
    grads = torch.autograd.grad(result, leaves, cotangent.to(result.dtype), allow_unused=True)
    return [
        result.detach(),
        *(torch.zeros_like(leaf) if grad is None else grad for grad, leaf in zip(grads, leaves, strict=True)),
    ]


def check(tokens, mixing, bias, weight=None, grad_zones=True):
    """Values and all gradients of one call against float64: the error may be eight roundings of the sum of magnitudes that a number
    is made of, in the dtype that sums are taken in, and one of the result."""
    zone = (mixing.inside, mixing.outside) if grad_zones else ()
    given = [tokens, bias, *(() if weight is None else (weight,)), *zone]
    leaves = [leaf.detach().requires_grad_() for leaf in given]
    doubles = [leaf.detach().double().requires_grad_() for leaf in leaves]
    sizes = [leaf.detach().double().abs().requires_grad_() for leaf in leaves]
    cotangent = randn(*tokens.shape, seed=9).to(tokens.dtype)
    flags = (mixing, weight is not None, grad_zones)
    got = gradients_of(mk.source_attribution, leaves, *flags, cotangent)
    exact = gradients_of(dense_formula, doubles, *flags, cotangent)
    magnitudes = gradients_of(dense_formula, sizes, *flags, cotangent.abs())
    sums = torch.finfo(torch.promote_types(tokens.dtype, torch.float32)).eps
    for value, right, magnitude, leaf in zip(got, exact, magnitudes, (tokens, *leaves), strict=True):
        assert value.dtype == leaf.dtype and value.shape == right.shape and value.isfinite().all()
        allowed = 8 * sums * magnitude + torch.finfo(leaf.dtype).eps * right.abs() + torch.finfo(leaf.dtype).tiny
        assert ((value.double() - right).abs() <= allowed).all()


def case(batch, grid, width, inputs, dtype=torch.float32, encoding=True):
    tokens = randn(batch, grid[0] * grid[1], width, seed=1).to(dtype)
    bias = randn(inputs, width, seed=2).to(dtype)
    weight = (randn(inputs, width, width, seed=3) / width**0.5).to(dtype) if encoding else None
    return tokens, bias, weight


SHAPES = {
    "convit": (4, (8, 8), 384, 2),  # chunks of 160 tokens
    "cait": (2, (14, 14), 192, 2),
    "many-short-tokens": (9, (20, 20), 8, 2),  # several chunks a group, the last one partial
    "odd-width": (3, (3, 5), 37, 3),
    "one-number-a-token": (3, (2, 2), 1, 2),
    "one-token": (4, (1, 1), 24, 2),
    "streamed": (33, (8, 8), 513, 2),  # past the size from which results bypass the caches, rows not aligned
}


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("encoding", [True, False], ids=["encoding", "embedding"])
@pytest.mark.parametrize("shape", SHAPES)
def test_shapes(shape, encoding, mix):
    batch, grid, width, inputs = SHAPES[shape]
    tokens, bias, weight = case(batch, grid, width, inputs, encoding=encoding)
    check(tokens, MIXES[mix]("box", batch, inputs, grid), bias, weight, grad_zones=shape != "streamed")


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("encoding", [True, False], ids=["encoding", "embedding"])
@pytest.mark.parametrize("inputs", [1, 2, 3, 4])
@pytest.mark.parametrize("zone", ZONES)
def test_zones_and_inputs(zone, inputs, encoding, mix):
    tokens, bias, weight = case(5, (4, 6), 20, inputs, encoding=encoding)
    check(tokens, MIXES[mix](zone, 5, inputs, (4, 6)), bias, weight)


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("encoding", [True, False], ids=["encoding", "embedding"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_dtypes(dtype, encoding, mix):
    tokens, bias, weight = case(3, (4, 5), 50, 2, dtype, encoding)
    check(tokens, MIXES[mix]("bitmap", 3, 2, (4, 5)), bias, weight)
    other = torch.float64 if dtype == torch.bfloat16 else torch.bfloat16
    check(tokens, MIXES[mix]("bitmap", 3, 2, (4, 5)), bias.to(other), None if weight is None else weight.to(other))


@settings(deadline=None, max_examples=40)
@given(
    batch=st.integers(1, 4),
    grid=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    width=st.integers(1, 40),
    inputs=st.integers(1, 3),
    zone=st.sampled_from(ZONES),
    mix=st.sampled_from(list(MIXES)),
    layout=st.sampled_from(["after-class-token", "transposed", "strided", "expanded"]),
    encoding=st.booleans(),
)
def test_any_shape_and_layout(batch, grid, width, inputs, zone, mix, layout, encoding):
    tokens, bias, weight = case(batch, grid, width, inputs, encoding=encoding)
    if layout == "after-class-token":
        tokens = torch.cat((tokens[:, :1], tokens), 1)[:, 1:]
    elif layout == "transposed":
        tokens = tokens.transpose(1, 2).contiguous().transpose(1, 2)
    elif layout == "strided":
        tokens = torch.stack((tokens, tokens), -1)[..., 0]
    else:
        tokens = tokens[:1].expand(tokens.shape)
    weight = None if weight is None else weight.transpose(1, 2)
    check(tokens, MIXES[mix](zone, batch, inputs, grid), bias, weight)


def test_a_token_meets_the_matrix_of_its_own_source_only():
    tokens, bias, weight = case(3, (4, 4), 16, 3)
    weight[2] = NAN
    only_two = binary("box", 3, 2, (4, 4))
    padded = [torch.nn.functional.pad(zone, (0, 1)) for zone in (only_two.inside, only_two.outside)]
    leaves = (tokens.requires_grad_(), bias.requires_grad_(), weight.requires_grad_())
    result = mk.source_attribution(tokens, Mixing(*padded, (4, 4), box=only_two.box), bias, weight)
    grads = torch.autograd.grad(result.sum(), leaves)
    assert result.isfinite().all() and all(grad.isfinite().all() for grad in grads)
    assert (grads[2][2] == 0).all() and (grads[1][2] == 0).all()


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("encoding", [True, False], ids=["encoding", "embedding"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_reads_and_writes_nothing_beside_its_tensors(dtype, encoding, mix, poisoned_outputs):
    tensors = [None if tensor is None else surrounded(tensor) for tensor in case(3, (3, 5), 23, 2, dtype, encoding)]
    for zone in ZONES:
        drawn = MIXES[mix](zone, 3, 2, (3, 5))
        box = None if drawn.box is None else surrounded(drawn.box)
        bitmap = None if drawn.bitmap is None else surrounded(drawn.bitmap)
        mixing = Mixing(surrounded(drawn.inside), surrounded(drawn.outside), (3, 5), box, bitmap)
        check(tensors[0], mixing, tensors[1], tensors[2])


@pytest.fixture
def with_threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def run(tokens, mixing, bias, weight):
    leaves = [
        leaf.detach().requires_grad_()
        for leaf in (tokens, bias, weight, mixing.inside, mixing.outside)
        if leaf is not None
    ]
    held = Mixing(*leaves[-2:], mixing.grid, mixing.box, mixing.bitmap)
    result = mk.source_attribution(leaves[0], held, leaves[1], leaves[2] if weight is not None else None)
    return result.detach(), *torch.autograd.grad(result.square().sum(), leaves)


@pytest.mark.parametrize("mix", MIXES)
def test_embedding_gives_the_same_bits_for_any_number_of_threads(mix, with_threads):
    tokens, bias, _ = case(24, (8, 8), 96, 2, encoding=False)
    results = []
    for count in (1, 2, 3, 2):
        with_threads(count)
        results.append(run(tokens, MIXES[mix]("box", 24, 2, (8, 8)), bias, None))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_encoding_gives_the_same_bits_for_the_same_number_of_threads(threads, mix, with_threads):
    tokens, bias, weight = case(24, (8, 8), 96, 2)
    mixing = MIXES[mix]("box", 24, 2, (8, 8))
    with_threads(threads)
    check(tokens, mixing, bias, weight)
    first, second = run(tokens, mixing, bias, weight), run(tokens, mixing, bias, weight)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("encoding", [True, False], ids=["encoding", "embedding"])
def test_training_does_not_ask_for_gradients_of_the_mix(encoding):
    tokens, bias, weight = case(3, (4, 4), 8, 2, encoding=encoding)
    mixing = binary("box", 3, 2, (4, 4))
    check(tokens, mixing, bias, weight, grad_zones=False)
    arguments = (mixing.inside, mixing.outside, mixing.box, None, bias, weight, [4, 4], False)
    grads = torch.ops.mixfast.source_attribution_backward(torch.ones_like(tokens), tokens, *arguments)
    expected = [tokens.numel(), 0, 0, 16, 128] if encoding else [0, 0, 0, 16, 0]
    assert [grad.numel() for grad in grads] == expected


@pytest.mark.parametrize("encoding", [True, False], ids=["encoding", "embedding"])
def test_empty_batch(encoding):
    tokens, bias, weight = case(0, (4, 4), 8, 2, encoding=encoding)
    nothing = torch.empty(0, 2)
    leaves = [leaf.requires_grad_() for leaf in (tokens, bias, weight) if leaf is not None]
    result = mk.source_attribution(tokens, Mixing(nothing, nothing, (4, 4)), bias, weight)
    grads = torch.autograd.grad(result.sum(), leaves)
    assert result.shape == (0, 16, 8) and all(
        (grad == 0).all() and grad.shape == leaf.shape for grad, leaf in zip(grads, leaves, strict=True)
    )


@pytest.mark.parametrize("encoding", [True, False], ids=["encoding", "embedding"])
def test_opcheck_of_the_backward_operator(encoding):
    tokens, bias, weight = case(3, (4, 4), 8, 2, encoding=encoding)
    mixing = half_binary("coverage", 3, 2, (4, 4))
    arguments = (mixing.inside, mixing.outside, None, mixing.bitmap, bias.double(), weight, [4, 4])
    for zones in (False, True):
        call = (torch.ones_like(tokens), tokens if encoding else None, *arguments, zones)
        torch.library.opcheck(torch.ops.mixfast.source_attribution_backward.default, call)


def test_tokens_beyond_four_gigabytes():
    """Most of the memory is never touched, so never there."""
    far = torch.empty(2**31 + 48, dtype=torch.bfloat16).as_strided((2, 4, 12), (2**31, 12, 1))
    far.copy_(randn(2, 4, 12, seed=1))
    mixing, (_, bias, weight) = binary("box", 2, 2, (2, 2)), case(2, (2, 2), 12, 2, torch.bfloat16)
    for matrices in (weight, None):
        near = mk.source_attribution(far.contiguous(), mixing, bias, matrices)
        torch.testing.assert_close(mk.source_attribution(far, mixing, bias, matrices), near, rtol=0, atol=0)


T, W, B, M = torch.randn(2, 12, 5), torch.ones(2, 2), torch.ones(2, 5), torch.ones(2, 5, 5)


@pytest.mark.parametrize(
    "arguments",
    [
        (T[0], W, W, None, None, B, M, [4, 3]),
        (T, W, W, None, None, B, M, [4, 4]),
        (T, W, W, None, None, B, M, [12]),
        (T, W[:1], W[:1], None, None, B, M, [4, 3]),
        (T, W, W[:, :1], None, None, B, M, [4, 3]),
        (T, W[:, :0], W[:, :0], None, None, B[:0], None, [4, 3]),
        (T, W, W, torch.zeros(1, 4, dtype=torch.int32), None, B, M, [4, 3]),
        (T, W, W, None, torch.ones(2, 3, 3), B, M, [4, 3]),
        (T, W, W, None, None, B[:1], M, [4, 3]),
        (T, W, W, None, None, B, M[:, :4], [4, 3]),
        (T, W, W, None, None, B, M[:1], [4, 3]),
        (T.int(), W, W, None, None, B, M, [4, 3]),
    ],
)
def test_the_bare_operator_refuses_what_it_would_read_out_of_bounds(arguments):
    with pytest.raises(RuntimeError):
        torch.ops.mixfast.source_attribution(*arguments)
    with pytest.raises(RuntimeError):
        torch.ops.mixfast.source_attribution_backward(torch.ones_like(arguments[0]), *arguments, False)


@pytest.mark.parametrize("tokens", [None, T[:1], T.double()])
def test_tokens_unlike_the_gradient_are_refused(tokens):
    with pytest.raises(RuntimeError, match="tokens"):
        torch.ops.mixfast.source_attribution_backward(T, tokens, W, W, None, None, B, M, [4, 3], False)


@pytest.mark.parametrize("instructions", ["default", "avx2"])
def test_other_instruction_sets(instructions):
    """The same tests again in a process that is held to older instructions."""
    if os.environ.get("ATEN_CPU_CAPABILITY"):
        pytest.skip("already held to one instruction set")
    run_pytest(__file__, {"ATEN_CPU_CAPABILITY": instructions}, "-k", "test_shapes or dtypes or beside_its")
