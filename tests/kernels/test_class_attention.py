"""class_attention against the plain form, which projects keys and values of every token, and under torch's machinery."""

from __future__ import annotations

import functools
import math

import mixfast_kernels as mk
import pytest
import torch
from drawing import draw_mixing
from mixfast_kernels import Mixing
from torch.nn import functional as F

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


def test_values_and_gradients_are_those_of_the_plain_form(case):
    cotangent = randn(*case.function(*case.tensors).shape, seed=20).detach()
    got, got_grads = gradients(case.function, case.tensors, cotangent)
    expected, expected_grads = gradients(case.plain_function, case.tensors, cotangent)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-10)
    for position, one, other in zip(case.held, got_grads, expected_grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-9, msg=lambda m, p=position: f"{NAMES[p]}: {m}")
