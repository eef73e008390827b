"""The Triton augment against the reference in float64: shapes, layouts, dtypes, zones, guards and offsets."""

from __future__ import annotations

import pytest
import torch
from drawing import draw_mixing, laid_out
from guards import assert_within_twice, doubled
from mixfast_kernels.augment import augment_reference
from triton_cases import interpreted_only, needs_triton, on_device

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.uint8)
ZONES = ("none", "box", "bitmap", "coverage")

pytestmark = needs_triton


def arguments(
    channels=3, size=(7, 6), out_size=(7, 6), pad=2, sources=2, zone="box", batch=5, layout="channels_last",
    binary=False, flips=True, mixing_dtype=torch.float32, seed=0,
):  # fmt: skip
    """The operator's arguments up to pad, and the size of the result."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (4, channels, *size), generator=generator, dtype=torch.uint8)
    index = torch.randint(4, (batch, sources), generator=generator)
    places = [side + 2 * pad - out + 1 for side, out in zip(size, out_size, strict=True)]
    crop = torch.stack([torch.randint(count, (batch, sources), generator=generator) for count in places], -1)
    flip = torch.rand(batch, sources, generator=generator) < 0.5 if flips else None
    mix = (None,) * 4
    if zone is not None:
        mixing = draw_mixing(zone, batch, sources, out_size, mixing_dtype, seed)
        inside, outside = mixing.inside, mixing.outside
        if binary:
            shown = torch.randint(sources, (2, batch), generator=generator)
            inside, outside = torch.nn.functional.one_hot(shown, sources).to(mixing_dtype)
        mix = (inside, outside, mixing.box, mixing.bitmap)
    return (laid_out(images, layout), index, crop, flip, *mix, pad), list(out_size)


def statistics(channels, dtype):
    if dtype == torch.uint8:
        return None, None
    return [0.1 + 0.7 * k / channels for k in range(channels)], [0.2 + 0.1 * k / channels for k in range(channels)]


def run(*values, guarded=False):
    from mixfast_kernels._triton.augment import augment

    return on_device(augment, *values, guarded=guarded)


def check(values, out_size, dtype=torch.float32, normalised=True):
    rest = (*(statistics(values[0].shape[1], dtype) if normalised else (None, None)), dtype, out_size)
    got = run(*values, *rest, guarded=True)
    plain = augment_reference(*values, *rest)
    assert got.dtype == dtype and got.is_contiguous(memory_format=torch.channels_last)
    if dtype == torch.uint8:
        # A blend half way between two bytes may fall on either side, as its products are rounded or not.
        assert (got.int() - plain.int()).abs().max() <= (0 if values[4] is None else 1)
        return
    exact = augment_reference(*(doubled(value) for value in values), *rest[:2], torch.float64, out_size)
    assert_within_twice(got, plain, exact)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("zone", [None, *ZONES])
def test_dtypes_and_zones(dtype, zone):
    for channels in (1, 3):
        check(*arguments(channels, zone=zone, sources=1 if zone is None else 2), dtype)
    check(*arguments(zone=zone, sources=1 if zone is None else 2, binary=True), dtype, normalised=False)


@pytest.mark.parametrize("sources", [1, 2, 3, 4])
@pytest.mark.parametrize("zone", ZONES)
def test_numbers_of_sources(sources, zone):
    check(*arguments(sources=sources, zone=zone, batch=3))
    check(*arguments(sources=sources, zone=zone, batch=3, mixing_dtype=torch.float64), torch.float64)


# One column; odd, in a smaller window; a window beyond the image on every side; several programs a sample.
SIZES = [((3, 1), (3, 1), 1), ((9, 11), (5, 7), 0), ((4, 5), (10, 9), 3), ((20, 24), (20, 24), 4)]


@pytest.mark.parametrize(("size", "out_size", "pad"), SIZES)
@pytest.mark.parametrize("channels", [1, 4, 17])
def test_sizes(size, out_size, pad, channels):
    for dtype in (torch.bfloat16, torch.uint8):
        check(*arguments(channels, size, out_size, pad), dtype)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided", "expanded"])
def test_layouts(layout):
    check(*arguments(layout=layout))
    check(*arguments(layout=layout, zone=None, sources=1, flips=False), torch.uint8)
    values, out_size = arguments(layout=layout)
    views = [torch.stack((v, v), -1)[..., 0] if isinstance(v, torch.Tensor) else v for v in values[1:]]
    centre = torch.tensor([2, 1]).expand(5, 2, 2)
    check((values[0], views[0], centre, *views[2:]), out_size)


@pytest.mark.parametrize("zone", ["none", "box", "bitmap"])
def test_what_a_sharp_zone_shows_is_copied_exactly(zone):
    values, out_size = arguments(zone=zone, binary=True)
    got = run(*values, None, None, torch.uint8, out_size)
    assert torch.equal(got, augment_reference(*values, None, None, torch.uint8, out_size))


def test_bytes_are_rounded_to_even_and_clamped():
    images = torch.tensor([[1, 3, 200, 255], [2, 4, 201, 255]], dtype=torch.uint8).view(2, 1, 1, 4)
    index, crop = torch.tensor([[0, 1]]), torch.zeros(1, 2, 2, dtype=torch.int64)
    for weights in (torch.full((1, 2), 0.5), torch.tensor([[2.0, -1.0]]), torch.tensor([[-1.0, 0.0]])):
        values = (images, index, crop, None, weights, weights, None, None, 0, None, None, torch.uint8, [1, 4])
        assert torch.equal(run(*values), augment_reference(*values))


def test_indices_that_are_none_and_windows_beyond_the_padding_are_black():
    values, out_size = arguments(sources=1, zone=None)
    for bad in (-1, 4, 2**40):
        values[1][2] = bad
        got = run(*values, None, None, torch.uint8, out_size, guarded=True)
        kept = [0, 1, 3, 4]
        values[1][2] = 0
        expected = augment_reference(*values, None, None, torch.uint8, out_size)
        assert (got[2] == 0).all() and torch.equal(got[kept], expected[kept])
    for bad in (-100, 100, 2**40):
        values[2][3] = bad
        assert (run(*values, None, None, torch.uint8, out_size)[3] == 0).all()


@pytest.mark.parametrize("size", [(0, 3), (2, 0)])
def test_an_empty_batch(size):
    batch, channels = size
    values, out_size = arguments(channels, batch=batch)
    assert run(*values, None, None, torch.float32, out_size).shape == (batch, channels, 7, 6)


@interpreted_only
def test_images_beyond_four_gigabytes():
    """Most of the images are never touched, so never there."""
    images = torch.empty(2**20 + 2, 1, 64, 64, dtype=torch.uint8)
    images[-1] = 200
    index, crop = torch.tensor([[2**20 + 1]]), torch.zeros(1, 1, 2, dtype=torch.int64)
    got = run(images, index, crop, *(None,) * 5, 0, None, None, torch.uint8, [64, 64])
    assert (got == 200).all()


def test_the_same_bits_twice_and_by_the_operator():
    values, out_size = arguments(size=(16, 16), out_size=(16, 16), batch=8)
    rest = (*statistics(3, torch.float32), torch.float32, out_size)
    first = run(*values, *rest)
    assert torch.equal(first, run(*values, *rest))
    assert torch.equal(first, on_device(torch.ops.mixfast.augment, *values, *rest))
