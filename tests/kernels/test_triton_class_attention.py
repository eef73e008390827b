"""The Triton class_attention against float64, over the shapes, sources and dtypes that its kernels treat differently."""

from __future__ import annotations

import pytest
import torch
from drawing import draw_mixing
from guards import doubled
from mixfast_kernels.class_attention import class_attention_backward_reference, class_attention_reference
from triton_cases import (
    assert_as_exact,
    furthest,
    guarded_call,
    interpreted_only,
    last_program,  # noqa: F401
    needs_triton,
    plain_forms,
)

pytestmark = needs_triton

EPS = 1e-6
# batch, height, width of the token grid, width of a token, heads
SHAPES = {
    "convit": (3, 8, 8, 96, 12),
    "cait": (1, 14, 14, 72, 6),  # tokens, heads and columns that fill no block
    "many-heads": (2, 3, 3, 40, 20),
    "narrow": (3, 3, 5, 3, 1),
    "one-token": (4, 1, 1, 37, 2),
    "most-tokens": (1, 16, 16, 32, 3),
}
CASES = [
    ("convit", torch.float32, {"sources": 2, "zone": "box"}),
    ("convit", torch.bfloat16, {"sources": 3, "zone": "bitmap"}),
    ("convit", torch.float16, {"sets": 2, "sources": 2}),
    ("cait", torch.bfloat16, {"sources": 2, "zone": "coverage"}),
    ("cait", torch.float32, {}),
    ("cait", torch.float32, {"sets": 3}),
    ("many-heads", torch.float32, {"sets": 2, "sources": 2}),
    ("narrow", torch.float16, {"sources": 4, "zone": "none"}),
    ("narrow", torch.float32, {"sets": 4, "sources": 4}),
    ("one-token", torch.float32, {"sources": 1, "zone": "box"}),
    ("most-tokens", torch.float32, {"sources": 2, "zone": "box"}),
    ("most-tokens", torch.bfloat16, {}),
]


def randn(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def launchers():
    from mixfast_kernels._triton import class_attention

    return class_attention.class_attention, class_attention.class_attention_backward


def arguments_of(shape, dtype, sets=1, sources=0, zone=None):
    """The operator's arguments, and a gradient of its result."""
    batch, height, width, size, heads = shape
    tokens, class_token = randn(batch, height * width, size, seed=1) + 0.5, randn(batch, sets, size, seed=2)
    query, source = (
        randn(batch, sets, heads, size, seed=3) / size**0.5,
        randn(sources, size, seed=4) if sources else None,
    )
    tensors = [None if value is None else value.to(dtype) for value in (tokens, class_token, query, source)]
    grad = randn(batch, sets, heads, size, seed=5).to(torch.promote_types(dtype, torch.float32))
    if zone is None:
        return grad, (*tensors, None, None, None, None, [], EPS)
    mixing = draw_mixing(zone, batch, sources, (height, width), torch.promote_types(dtype, torch.float32))
    return grad, (*tensors, mixing.inside, mixing.outside, mixing.box, mixing.bitmap, [height, width], EPS)


def check(grad, arguments, zones=None):
    zones = arguments[4] is not None if zones is None else zones
    forward, backward = launchers()
    exact_arguments = [doubled(value) for value in arguments]
    exact_arguments[-1] = EPS
    got = guarded_call(forward, *arguments)
    assert_as_exact(got, [class_attention_reference(*arguments)], [class_attention_reference(*exact_arguments)])
    grads = guarded_call(backward, grad, *arguments, zones)
    exact = class_attention_backward_reference(grad.double(), *exact_arguments, zones)
    plain = plain_forms(class_attention_backward_reference, grad, *arguments, zones)
    assert_as_exact(grads, furthest(plain, exact), exact)


@pytest.mark.parametrize(("name", "dtype", "options"), CASES, ids=lambda value: str(value).replace(" ", ""))
def test_values_and_gradients_stay_in_bounds_and_as_exact_as_the_reference(name, dtype, options):
    check(*arguments_of(SHAPES[name], dtype, **options))


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((1, 27, 19, 8, 2), torch.float32), ((1, 2, 2, 8, 300), torch.float32), ((2, 3, 3, 8, 2), torch.float64)],
    ids=["too-many-tokens", "too-many-heads", "float64"],
)
def test_what_the_kernels_do_not_take_is_the_references(shape, dtype):
    grad, arguments = arguments_of(shape, dtype, sets=2, sources=2)
    forward, backward = launchers()
    assert torch.equal(forward(*arguments), class_attention_reference(*arguments))
    expected = class_attention_backward_reference(grad, *arguments, False)
    assert all(torch.equal(*pair) for pair in zip(backward(grad, *arguments, False), expected, strict=True))


def test_gradients_of_the_mix_are_not_computed_unless_wanted():
    check(*arguments_of(SHAPES["convit"], torch.float32, sources=2, zone="box"), zones=False)


@pytest.mark.parametrize("view", ["class-token", "columns", "transposed", "expanded"])
@pytest.mark.parametrize("options", [{"sources": 2, "zone": "box"}, {"sets": 2, "sources": 2}], ids=["mixed", "each"])
def test_views_of_tokens_queries_and_gradients(view, options):
    grad, (tokens, class_token, query, *rest) = arguments_of((4, 3, 4, 16, 2), torch.float32, **options)
    if view == "class-token":
        tokens = torch.cat((tokens[:, :1], tokens), 1)[:, 1:]
    elif view == "columns":
        tokens, class_token = (torch.cat((v, v), 2)[:, :, 5:21] for v in (tokens, class_token))
        grad, query = (torch.cat((v, v), 3)[..., 5:21] for v in (grad, query))
    elif view == "transposed":
        tokens, query, grad = (v.transpose(1, 2).contiguous().transpose(1, 2) for v in (tokens, query, grad))
    else:
        tokens, class_token, query = (v[:1].expand(v.shape) for v in (tokens, class_token, query))
        grad = grad[..., :1].expand(grad.shape)
    check(grad, (tokens, class_token, query, *rest))


@interpreted_only
def test_strides_beyond_32_bits():
    """Two samples 2^31 elements apart; memory that is never touched costs nothing."""
    grad, (tokens, *rest) = arguments_of((2, 4, 4, 16, 2), torch.float16, sources=2, zone="box")
    far = torch.empty_strided(tokens.shape, (2**31 + 8, 16, 1), dtype=tokens.dtype).copy_(tokens)
    forward, backward = launchers()
    assert torch.equal(forward(far, *rest), forward(tokens, *rest))
    for one, other in zip(backward(grad, far, *rest, False), backward(grad, tokens, *rest, False), strict=True):
        assert torch.equal(one, other)


@interpreted_only
@pytest.mark.usefixtures("last_program")
def test_results_beyond_32_bits():
    """2^31 elements and more come out; only the last program runs."""
    count, size = 64, 64
    batch = 2**31 // (count * size) + 2
    grad, (tokens, class_token, query, *_) = arguments_of((2, 8, 8, size, 1), torch.float16)
    many = [torch.empty(batch, *value.shape[1:], dtype=value.dtype) for value in (tokens, class_token, query, grad)]
    for target, value in zip(many, (tokens, class_token, query, grad), strict=True):
        target[-1:] = value[-1:]
    last = [value[-1:] for value in many]
    nothing, backward = (None, None, None, None, None, [], EPS), launchers()[1]
    grads = backward(many[3], *many[:3], *nothing, False)
    plain = class_attention_backward_reference(last[3], *last[:3], *nothing, False)
    exact = class_attention_backward_reference(last[3].double(), *map(doubled, last[:3]), *nothing, False)
    assert_as_exact([value[-1:] for value in grads[:3]], plain[:3], exact[:3])
