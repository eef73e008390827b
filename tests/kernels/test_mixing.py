"""The two-zone mix against position-by-position counting, and its behaviour as a container."""

from __future__ import annotations

import naive
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mixfast_kernels import Mixing

sizes = st.integers(1, 9)


@st.composite
def boxed_mixings(draw):
    height, width, batch, inputs = draw(sizes), draw(sizes), draw(st.integers(0, 3)), draw(st.integers(1, 4))
    rows = [sorted((draw(st.integers(0, height)), draw(st.integers(0, height)))) for _ in range(batch)]
    columns = [sorted((draw(st.integers(0, width)), draw(st.integers(0, width)))) for _ in range(batch)]
    box = [[r[0], c[0], r[1], c[1]] for r, c in zip(rows, columns, strict=True)]
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    zone_weights = torch.rand(2, batch, inputs, generator=generator, dtype=torch.float64)
    return Mixing(*zone_weights, (height, width), box=torch.tensor(box, dtype=torch.int32).view(batch, 4))


def as_bitmap(mixing):
    return Mixing(mixing.inside, mixing.outside, mixing.grid, bitmap=mixing.coverage().bool())


@settings(deadline=None)
@given(boxed_mixings())
def test_weights_and_ratios_match_counting(mixing):
    expected = naive.zone_weights(mixing.inside, mixing.outside, mixing.grid, box=mixing.box)
    for form in (mixing, as_bitmap(mixing)):
        np.testing.assert_allclose(form.weights(), expected, atol=1e-12)
        np.testing.assert_allclose(form.ratios(), expected.mean((2, 3)), atol=1e-12)


@settings(deadline=None)
@given(boxed_mixings(), st.tuples(sizes, sizes))
def test_area_resizing_keeps_ratios_and_agrees_between_forms(mixing, size):
    resized = mixing.resized(size)
    np.testing.assert_allclose(resized.ratios(), mixing.ratios(), atol=1e-12)
    np.testing.assert_allclose(resized.weights(), as_bitmap(mixing).resized(size).weights(), atol=1e-12)


@settings(deadline=None)
@given(boxed_mixings(), st.tuples(sizes, sizes))
def test_nearest_resizing_is_that_of_interpolate_and_stays_binary(mixing, size):
    if mixing.batch_size == 0:
        return
    expected = torch.nn.functional.interpolate(mixing.coverage()[:, None], size=size, mode="nearest-exact")[:, 0]
    assert mixing.resized(size, "nearest").box is not None
    for form in (mixing, as_bitmap(mixing)):
        torch.testing.assert_close(form.resized(size, "nearest").coverage(), expected)


def test_area_resizing_by_a_whole_factor_is_average_pooling(mixing_of):
    mixing = mixing_of("bitmap", 3, 2, (8, 12))
    expected = torch.nn.functional.avg_pool2d(mixing.weights(), (2, 3))
    torch.testing.assert_close(mixing.resized((4, 4)).weights(), expected)


def test_resizing_under_autocast_stays_exact(mixing_of):
    mixing = mixing_of("bitmap", 3, 2, (8, 12))
    with torch.autocast("cpu", torch.bfloat16):
        inside_autocast = mixing.resized((3, 5)).weights()
    torch.testing.assert_close(inside_autocast, mixing.resized((3, 5)).weights(), rtol=0, atol=0)


def test_fading_moves_every_weight_towards_one(mixing_of, zone):
    mixing = mixing_of(zone, 2, 3, (4, 5))
    weights = mixing.weights()
    torch.testing.assert_close(mixing.faded(0.25).weights(), weights + 0.25 * (1 - weights))
    torch.testing.assert_close(mixing.faded(torch.tensor(1.0)).weights(), torch.ones_like(weights))


def test_passes_through_torch_compile_in_and_out(mixing_of, zone):
    @torch.compile(fullgraph=True, backend="aot_eager")
    def half(mixing):
        smaller = mixing.resized((2, 2))
        return smaller, smaller.weights()

    mixing = mixing_of(zone, 3, 2, (4, 4))
    smaller, weights = half(mixing)
    assert isinstance(smaller, Mixing) and smaller.grid == (2, 2)
    torch.testing.assert_close(weights, mixing.resized((2, 2)).weights())


def test_is_immutable_and_moves_between_devices(mixing_of):
    mixing = mixing_of("box", 2, 2, (3, 3))
    with pytest.raises(AttributeError):
        mixing.grid = (4, 4)
    moved = mixing.to("meta")
    assert moved.inside.device.type == moved.box.device.type == "meta" and moved.grid == (3, 3)


ones = torch.ones(2, 2)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"inside": [[1.0]]}, TypeError, "inside"),
        ({"inside": ones.int()}, TypeError, "inside"),
        ({"outside": torch.ones(2, 3)}, ValueError, "outside"),
        ({"grid": (0, 3)}, ValueError, "grid"),
        ({"box": torch.zeros(2, 4, dtype=torch.int64)}, TypeError, "box"),
        ({"box": torch.zeros(3, 4, dtype=torch.int32)}, ValueError, "box"),
        ({"bitmap": torch.zeros(2, 3, 5, dtype=torch.bool)}, ValueError, "bitmap"),
        ({"bitmap": torch.zeros(2, 3, 4, requires_grad=True)}, ValueError, "bitmap"),
        (
            {"box": torch.zeros(2, 4, dtype=torch.int32), "bitmap": torch.zeros(2, 3, 4, dtype=torch.bool)},
            ValueError,
            "not both",
        ),
    ],
)
def test_refuses_wrong_arguments(arguments, error, words):
    with pytest.raises(error, match=words):
        Mixing(**{"inside": ones, "outside": ones, "grid": (3, 4), **arguments})


def test_refuses_wrong_sizes_and_modes(mixing_of):
    mixing = mixing_of("box", 2, 2, (4, 4))
    with pytest.raises(ValueError, match="mode"):
        mixing.resized((2, 2), "bilinear")
    with pytest.raises(ValueError, match="size"):
        mixing.resized((0, 2))
