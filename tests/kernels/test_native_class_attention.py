"""The C++ class_attention against float64 arithmetic, over what it treats differently."""

from __future__ import annotations

import os

import pytest
import torch
from drawing import draw_mixing
from guards import assert_within_twice, doubled, surrounded
from hypothesis import given, settings
from hypothesis import strategies as st
from mixfast_kernels.class_attention import class_attention_backward_reference, class_attention_reference
from running import needs_native, run_pytest

pytestmark = needs_native

ZONES = ("none", "box", "bitmap", "coverage")
EPS = 1e-6
FORWARD, BACKWARD = torch.ops.mixfast.class_attention, torch.ops.mixfast.class_attention_backward


def randn(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def arguments_of(batch, grid, width, heads, sets=1, sources=0, zone=None, dtype=torch.float32, scale=1.0):
    """The operator's arguments but for eps, and a gradient of its result. ``scale``: how far the scores spread."""
    tokens = randn(batch, grid[0] * grid[1], width, seed=1) + 0.5
    class_token, source = randn(batch, sets, width, seed=2), randn(sources, width, seed=3) if sources else None
    query = scale * randn(batch, sets, heads, width, seed=4) / width**0.5
    tensors = [None if value is None else value.to(dtype) for value in (tokens, class_token, query, source)]
    grad = randn(batch, sets, heads, width, seed=5).to(torch.promote_types(dtype, torch.float32))
    if zone is None:
        return grad, (*tensors, None, None, None, None, [])
    mixing = draw_mixing(zone, batch, sources, grid, torch.promote_types(dtype, torch.float32))
    return grad, (*tensors, mixing.inside, mixing.outside, mixing.box, mixing.bitmap, list(grid))


def results_of(forward, backward, grad, arguments, zones):
    return forward(*arguments, EPS), *backward(grad, *arguments, EPS, zones)


def check(grad, arguments, zones=None):
    """All results of both passes: at most twice the error of the same-dtype reference."""
    zones = arguments[4] is not None if zones is None else zones
    got = results_of(FORWARD, BACKWARD, grad, arguments, zones)
    reference = (class_attention_reference, class_attention_backward_reference)
    plain = results_of(*reference, grad, arguments, zones)
    exact = results_of(*reference, grad.double(), [doubled(value) for value in arguments], zones)
    names = ("result", "tokens", "class_token", "query", "source", "inside", "outside")
    for name, *values in zip(names, got, plain, exact, strict=True):
        assert values[0].isfinite().all(), name
        # In float64 the plain form itself counts as exact.
        assert_within_twice(*values, name, roundings=64 if arguments[0].dtype == torch.float64 else 8)


SHAPES = {
    "convit": (4, (8, 8), 384, 12),
    "cait-xs": (2, (14, 14), 288, 6),  # a last block of four tokens; columns for 18 vectors
    "cait-xxs": (2, (14, 14), 192, 4),
    "odd": (3, (3, 7), 45, 5),  # rows that fill no vector, queries that fill no tile
    "seven-heads": (2, (4, 4), 56, 7),
    "one-number-a-token": (3, (2, 2), 1, 1),
    "one-token": (4, (1, 1), 24, 3),
    "many-tokens": (1, (40, 40), 16, 2),
    "streamed": (33, (8, 8), 513, 3),  # past the size from which gradients bypass the caches, rows not aligned
}
SOURCES = {
    "none": {},
    "none-S3": {"sets": 3},
    "each-S2": {"sets": 2, "sources": 2},
    "each-S3": {"sets": 3, "sources": 3},
    "mixed": {"sources": 2, "zone": "box"},
}


@pytest.mark.parametrize("sources", SOURCES)
@pytest.mark.parametrize("shape", SHAPES)
def test_shapes(shape, sources):
    check(*arguments_of(*SHAPES[shape], **SOURCES[sources]))


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("sources", [1, 2, 3, 4])
@pytest.mark.parametrize("zones", [False, True])
def test_zones_and_inputs(sources, zone, zones):
    check(*arguments_of(5, (4, 6), 40, 4, sources=sources, zone=zone), zones)


@pytest.mark.parametrize("sources", SOURCES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_dtypes(dtype, sources):
    grad, arguments = arguments_of(3, (4, 5), 50, 5, **SOURCES[sources], dtype=dtype)
    check(grad, arguments)
    # Each small tensor may have a dtype of its own, as under autocast.
    other = torch.float32 if dtype == torch.bfloat16 else torch.bfloat16
    tokens, *small = arguments[:4]
    check(grad, (tokens, *(None if value is None else value.to(other) for value in small), *arguments[4:]))


@pytest.mark.parametrize("scale", [0.0, 1e-3, 30.0])
def test_flat_and_sharp_attention(scale):
    check(*arguments_of(3, (5, 5), 48, 6, 2, 2, scale=scale))


def test_scores_beyond_the_range_of_exp():
    """One key takes all: each result is a normalised token, to the bit that float32 scores of 10000 leave."""
    grad, arguments = arguments_of(3, (5, 5), 48, 6, 2, 2, scale=1e4)
    result, *grads = results_of(FORWARD, BACKWARD, grad, arguments, False)
    exact = class_attention_reference(*(doubled(value) for value in arguments), EPS)
    torch.testing.assert_close(result.double(), exact, rtol=0, atol=0.05)
    assert all(value.isfinite().all() for value in grads)


@settings(deadline=None, max_examples=40)
@given(
    batch=st.integers(1, 4),
    grid=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    width=st.integers(8, 70),  # few numbers may be almost equal, and their variance hardly known
    heads=st.integers(1, 9),
    sources=st.sampled_from(list(SOURCES)),
    layout=st.sampled_from(["dense", "after-class-token", "transposed", "strided", "expanded"]),
)
def test_any_shape_and_layout(batch, grid, width, heads, sources, layout):
    grad, (tokens, class_token, query, *rest) = arguments_of(batch, grid, width, heads, **SOURCES[sources])
    if layout == "after-class-token":
        tokens = torch.cat((tokens[:, :1], tokens), 1)[:, 1:]
    elif layout == "transposed":
        tokens, query = (v.transpose(1, 2).contiguous().transpose(1, 2) for v in (tokens, query))
    elif layout == "strided":
        tokens, class_token = (torch.stack((v, v), -1)[..., 0] for v in (tokens, class_token))
    elif layout == "expanded":
        tokens, class_token = tokens[:1].expand(tokens.shape), class_token[:1].expand(class_token.shape)
        grad = grad[..., :1].expand(grad.shape)
    # Not ``check``: in the smallest shapes all of a gradient may cancel, and exact zeros allow no error.
    arguments = (tokens, class_token, query, *rest)
    zones = arguments[4] is not None
    got = results_of(FORWARD, BACKWARD, grad, arguments, zones)
    reference = (class_attention_reference, class_attention_backward_reference)
    exact = results_of(*reference, grad.double(), [doubled(value) for value in arguments], zones)
    for value, right in zip(got, exact, strict=True):
        torch.testing.assert_close(value.double(), right, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sources", SOURCES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_reads_and_writes_nothing_beside_its_tensors(dtype, sources, poisoned_outputs):
    grad, arguments = arguments_of(3, (3, 5), 23, 1, **SOURCES[sources], dtype=dtype)
    check(surrounded(grad), [surrounded(v) if isinstance(v, torch.Tensor) else v for v in arguments])


@pytest.fixture
def with_threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("sources", SOURCES)
def test_the_same_bits_for_any_number_of_threads(sources, with_threads):
    grad, arguments = arguments_of(24, (8, 8), 96, 4, **SOURCES[sources])
    results = []
    for count in (1, 2, 3, 2):
        with_threads(count)
        results.append(results_of(FORWARD, BACKWARD, grad, arguments, arguments[4] is not None))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("sources", SOURCES)
@pytest.mark.parametrize("empty", ["batch", "tokens"])
def test_empty(empty, sources):
    if empty == "tokens" and sources == "mixed":
        pytest.skip("a grid has at least one position")
    batch, grid = (0, (4, 4)) if empty == "batch" else (2, (0, 4))
    check(*arguments_of(batch, grid, 8, 2, **SOURCES[sources]))


@pytest.mark.parametrize("zones", [False, True])
@pytest.mark.parametrize("sources", SOURCES)
def test_opcheck_of_the_backward_operator(sources, zones):
    grad, arguments = arguments_of(3, (4, 4), 8, 2, **SOURCES[sources])
    torch.library.opcheck(BACKWARD.default, (grad, *arguments, EPS, zones))


def test_tokens_beyond_four_gigabytes():
    """Most of the memory is never touched, so never there."""
    grad, (tokens, *rest) = arguments_of(2, (2, 2), 12, 3, dtype=torch.bfloat16)
    far = torch.empty(2**31 + 48, dtype=torch.bfloat16).as_strided((2, 4, 12), (2**31, 12, 1)).copy_(tokens)
    near = results_of(FORWARD, BACKWARD, grad, (tokens, *rest), False)
    for one, other in zip(results_of(FORWARD, BACKWARD, grad, (far, *rest), False), near, strict=True):
        assert torch.equal(one, other)


T, C, Q = torch.randn(2, 12, 6), torch.randn(2, 1, 6), torch.randn(2, 1, 3, 6)
SOURCE, W, BOX = torch.randn(2, 6), torch.ones(2, 2), torch.zeros(2, 4, dtype=torch.int32)
NO_ZONE, ZONE = (None, None, None, None, []), (W, W, BOX, None, [4, 3])


@pytest.mark.parametrize(
    "arguments",
    [
        (T[0], C, Q, None, *NO_ZONE),
        (T.int(), C, Q, None, *NO_ZONE),
        (T[:, :, :5], C, Q, None, *NO_ZONE),
        (T, C[:1], Q, None, *NO_ZONE),
        (T, C[:, :0], Q[:, :0], None, *NO_ZONE),
        (T, C, Q[:, :, :0], None, *NO_ZONE),
        (T, C, Q[:, :, :, :5], None, *NO_ZONE),
        (T, C, Q[:1], None, *NO_ZONE),
        (T, C, Q[:, 0], None, *NO_ZONE),
        (T, C, Q, SOURCE, *NO_ZONE),
        (T, C, Q, SOURCE[:, :5], *ZONE),
        (T, C, Q, SOURCE[:1], *ZONE),
        (T, C, Q, None, *ZONE),
        (T, C, Q, SOURCE, W, None, BOX, None, [4, 3]),
        (T, C, Q, None, None, None, BOX, None, [4, 3]),
        (T, C, Q, SOURCE, W, W, BOX, None, [4, 4]),
        (T, C, Q, SOURCE, W, W, BOX, None, []),
        (T, C, Q, SOURCE, W[:1], W[:1], BOX, None, [4, 3]),
        (T, C, Q, SOURCE, W, W, BOX[:1], None, [4, 3]),
        (T, C, Q, SOURCE, W, W, None, torch.ones(2, 3, 3), [4, 3]),
        (T, C.expand(2, 2, 6), Q.expand(2, 2, 3, 6), SOURCE, *ZONE),
    ],
)
def test_the_bare_operator_refuses_what_it_would_read_out_of_bounds(arguments):
    with pytest.raises(RuntimeError):
        FORWARD(*arguments, EPS)
    with pytest.raises(RuntimeError):
        BACKWARD(torch.ones_like(arguments[2]), *arguments, EPS, False)


def test_a_gradient_unlike_the_query_is_refused():
    with pytest.raises(RuntimeError, match="grad"):
        BACKWARD(Q[:1], T, C, Q, None, *NO_ZONE, EPS, False)


@pytest.mark.parametrize("instructions", ["default", "avx2"])
def test_other_instruction_sets(instructions):
    """The same tests again in a process that is held to older instructions."""
    if os.environ.get("ATEN_CPU_CAPABILITY"):
        pytest.skip("already held to one instruction set")
    run_pytest(__file__, {"ATEN_CPU_CAPABILITY": instructions}, "-k", "test_shapes or dtypes or beside_its")
