"""The Triton source_attribution against float64, over the shapes, mixes and dtypes that its kernels treat differently."""

from __future__ import annotations

import pytest
import torch
from drawing import draw_mixing
from guards import doubled, raised, summands_of
from mixfast_kernels import Mixing
from mixfast_kernels.source_attribution import source_attribution_backward_reference, source_attribution_reference
from triton_cases import (
    assert_as_exact,
    beside_garbage,
    guarded_call,
    interpreted_only,
    last_program,  # noqa: F401
    needs_triton,
)

pytestmark = needs_triton

# batch, height, width of the token grid, width of a token
SHAPES = {
    "convit": (3, 8, 8, 96),
    "cait": (1, 14, 14, 72),  # tokens and columns that fill no tile
    "two-groups": (9, 16, 15, 16),  # 2160 tokens: the order's second group is short
    "narrow": (3, 3, 5, 3),
    "one-token": (5, 1, 1, 37),
}
# shape, dtype, zone, sources, encoding; those of the first list with binary weights and with any
BOTH = [
    ("convit", torch.bfloat16, "bitmap", 2, True),
    ("cait", torch.float16, "box", 2, True),
    ("narrow", torch.float32, "coverage", 4, True),
]
BINARY = [
    ("convit", torch.float32, "box", 2, True),
    ("convit", torch.float16, "coverage", 3, True),
    ("convit", torch.bfloat16, "box", 4, False),
    ("cait", torch.float64, "bitmap", 2, True),
    ("cait", torch.float32, "none", 3, False),
    ("two-groups", torch.float32, "box", 3, True),
    ("two-groups", torch.float64, "bitmap", 2, False),
    ("narrow", torch.float16, "bitmap", 1, False),
    ("one-token", torch.bfloat16, "none", 1, True),
]


def randn(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def launchers():
    from mixfast_kernels._triton import source_attribution

    return source_attribution.source_attribution, source_attribution.source_attribution_backward


def binary(mixing):
    """The mix with one source inside and another outside, as CutMix draws it; every sample another two."""
    sample = torch.arange(mixing.batch_size)
    inside, outside = (
        torch.eye(mixing.num_inputs, dtype=mixing.inside.dtype)[(sample + shift) % mixing.num_inputs]
        for shift in (0, 1)
    )
    return Mixing(inside, outside, mixing.grid, mixing.box, mixing.bitmap)


def arguments_of(shape, dtype, zone, sources, encoding, hard):
    """The operator's arguments, and a gradient of its result."""
    batch, height, width, size = shape
    mix_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    mixing = draw_mixing(zone, batch, sources, (height, width), mix_dtype)
    mixing = binary(mixing) if hard else mixing
    tokens, grad = (randn(batch, height * width, size, seed=seed).to(dtype) for seed in (1, 2))
    bias = randn(sources, size, seed=3).to(dtype)
    weight = (randn(sources, size, size, seed=4) / size**0.5).to(dtype) if encoding else None
    tensors = (tokens, mixing.inside, mixing.outside, mixing.box, mixing.bitmap, bias, weight)
    return grad, (*tensors, [height, width])


def check(grad, arguments):
    forward, backward = launchers()

    def results_of(power):
        factors = [raised(value, power) for value in arguments]
        grads = source_attribution_backward_reference(
            raised(grad, power), factors[0] if factors[6] is not None else None, *factors[1:], False
        )
        return source_attribution_reference(*factors), *grads

    exact_arguments = [doubled(value) for value in arguments]
    of_result, *of_grads = summands_of(grad.dtype, results_of)
    attributed = guarded_call(forward, *arguments)
    plain = source_attribution_reference(*arguments)
    assert_as_exact(attributed, [plain], [source_attribution_reference(*exact_arguments)], [of_result])
    tokens = arguments[0] if arguments[6] is not None else None
    grads = guarded_call(backward, grad, tokens, *arguments[1:], False)
    plain = source_attribution_backward_reference(grad, tokens, *arguments[1:], False)
    exact = source_attribution_backward_reference(grad.double(), doubled(tokens), *exact_arguments[1:], False)
    assert_as_exact(grads, plain, exact, of_grads)


@pytest.mark.parametrize(
    ("case", "hard"),
    [(case, True) for case in BOTH + BINARY] + [(case, False) for case in BOTH],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, tuple) else "binary" if value else "soft",
)
def test_values_and_gradients_stay_in_bounds_and_as_exact_as_the_reference(case, hard):
    name, *options = case
    check(*arguments_of(SHAPES[name], *options, hard))


@pytest.mark.parametrize("view", ["class-token", "columns", "transposed", "expanded"])
@pytest.mark.parametrize("encoding", [True, False])
def test_views_of_tokens_and_gradients(view, encoding):
    grad, arguments = arguments_of((4, 3, 4, 16), torch.float32, "box", 2, encoding, True)

    def seen(values):
        return {
            "class-token": torch.cat((values[:, :1], values), 1)[:, 1:],
            "columns": torch.cat((values, values), 2)[:, :, 5:21],
            "transposed": values.transpose(1, 2).contiguous().transpose(1, 2),
            "expanded": values[:1].expand(4, -1, -1),
        }[view]

    check(seen(grad), (seen(arguments[0]), *arguments[1:]))


def test_a_source_that_is_not_seen_leaves_no_trace():
    """Its matrix may hold NaN: with a binary mask that is no token's concern."""
    _, arguments = arguments_of((2, 8, 8, 16), torch.float32, "none", 3, True, True)
    tokens, inside, outside, box, bitmap, bias, weight, grid = arguments
    outside = torch.tensor([[0.0, 1.0, 0.0]]).repeat(2, 1)
    weight = torch.stack((weight[0] * float("nan"), weight[1], weight[2] * float("nan")))
    call = (tokens, inside, outside, box, bitmap, bias, weight, grid)
    result = launchers()[0](*(beside_garbage(v) if isinstance(v, torch.Tensor) else v for v in call)).cpu()
    torch.testing.assert_close(result, tokens + tokens @ weight[1].T + bias[1])


@interpreted_only
def test_a_binary_mask_costs_one_product_a_token(monkeypatch):
    """Counted in tiles: one for each, and one more where one source ends and the next begins."""
    from mixfast_kernels._triton.grouped_product import PRODUCT, SEGMENT, WEIGHT_GRADIENT
    from triton.runtime.interpreter import InterpreterBuilder

    dots, create_dot = [], InterpreterBuilder.create_dot

    def counted(builder, *operands):
        dots.append(operands)
        return create_dot(builder, *operands)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", counted)
    sources, width, count = 3, 64, 16 * 64
    grad, arguments = arguments_of((16, 8, 8, width), torch.float16, "bitmap", sources, True, True)
    forward, backward = launchers()
    tiles, inner = count // PRODUCT[2]["BLOCK_T"], width // PRODUCT[2]["BLOCK_I"]
    forward(*arguments)
    assert tiles * inner <= len(dots) <= (tiles + sources - 1) * inner
    dots.clear()
    backward(grad, *arguments, False)
    segments, each = count // SEGMENT, SEGMENT // WEIGHT_GRADIENT[2]["BLOCK_T"]
    assert len(dots) <= (tiles + sources - 1) * inner + (segments + sources - 1) * each
    soft = (arguments[0], torch.rand(16, sources), *arguments[2:])
    dots.clear()
    forward(*soft)
    assert len(dots) > (tiles + sources - 1) * inner


def test_the_order_is_a_permutation_by_source_within_groups():
    from mixfast_kernels._triton import grouped_product, source_attribution

    _, (tokens, inside, outside, box, bitmap, *_rest) = arguments_of(
        SHAPES["two-groups"], torch.float32, "box", 3, True, True
    )
    mix, constants = source_attribution._mix_arguments(
        *(beside_garbage(value) for value in (tokens, inside, outside, box)), None, [16, 15]
    )
    order, weights = (value.cpu() for value in grouped_product.ordered(beside_garbage(tokens), mix, constants))
    count, group = tokens.shape[0] * tokens.shape[1], grouped_product.GROUP
    assert torch.equal(order[:count].sort().values, torch.arange(count, dtype=torch.int32))
    assert (order[count:] == -1).all() and (weights[:, count:] == 0).all()
    dense = Mixing(inside, outside, (16, 15), box).weights().flatten(2).transpose(1, 2).flatten(0, 1)
    assert torch.equal(weights[:, :count].T, dense[order[:count].long()])
    for first in range(0, count, group):
        slots = order[first : min(first + group, count)].long()
        key = dense[slots].argmax(1) * count + slots  # by source, then as they come
        assert (key.diff() > 0).all()


@interpreted_only
@pytest.mark.parametrize("encoding", [True, False])
def test_strides_beyond_32_bits(encoding):
    """Two samples 2^31 elements apart; memory that is never touched costs nothing."""
    grad, arguments = arguments_of((2, 4, 4, 16), torch.float16, "box", 2, encoding, True)
    far = []
    for values in (grad, arguments[0]):
        spread = torch.empty_strided(values.shape, (2**31 + 8, 16, 1), dtype=values.dtype)
        far.append(spread.copy_(values))
    forward, backward = launchers()
    assert torch.equal(forward(far[1], *arguments[1:]), forward(*arguments))
    tokens = (far[1], arguments[0]) if encoding else (None, None)
    results = (backward(*call, *arguments[1:], False) for call in ((far[0], tokens[0]), (grad, tokens[1])))
    for result, expected in zip(*results, strict=True):
        assert torch.equal(result, expected)


@interpreted_only
@pytest.mark.usefixtures("last_program")
@pytest.mark.parametrize("encoding", [True, False])
def test_results_beyond_32_bits(encoding):
    """2^31 elements and more come out; only the last tile is computed."""
    count, size = 32, 64
    batch = 2**31 // (count * size) + 2
    tokens = torch.empty(batch, count, size, dtype=torch.float16)
    tokens[-2:] = randn(2, count, size, seed=1)
    mixing = binary(draw_mixing("box", batch, 2, (4, 8)))
    bias = randn(2, size, seed=3).half()
    weight = (randn(2, size, size, seed=4) / 8).half() if encoding else None
    rest = (None, bias, weight, [4, 8])
    result = launchers()[0](tokens, mixing.inside, mixing.outside, mixing.box, *rest)
    last = (tokens[-1:], mixing.inside[-1:], mixing.outside[-1:], mixing.box[-1:], *rest)
    exact = source_attribution_reference(*(doubled(value) for value in last))
    assert_as_exact([result[-1:]], [source_attribution_reference(*last)], [exact])
