"""The C++ augment against its reference in float64: dtypes, channels, layouts, zones, mirrors, guards, refused indices."""

from __future__ import annotations

import mmap
import sys

import pytest
import torch
from drawing import draw_mixing
from guards import before_the_unreadable, surrounded
from hypothesis import given, settings
from hypothesis import strategies as st
from mixfast_kernels import Mixing
from mixfast_kernels.augment import augment_reference
from running import needs_native

pytestmark = needs_native

NATIVE = torch.ops.mixfast.augment.default
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.uint8]
ZONES = ["none", "box", "bitmap", "coverage"]


def draw_images(unique, channels, height, width, generator):
    images = torch.randint(256, (unique, channels, height, width), generator=generator, dtype=torch.uint8)
    return images.contiguous(memory_format=torch.channels_last)


def draw(channels=3, size=(7, 6), out_size=(7, 6), pad=2, sources=2, zone="box", sharp=False, batch=6, seed=0):
    """The operator's arguments up to out_size, without mean, std and dtype."""
    generator = torch.Generator().manual_seed(seed)
    images = draw_images(5, channels, *size, generator)
    index = torch.randint(5, (batch, sources), generator=generator)
    places = [side + 2 * pad - out + 1 for side, out in zip(size, out_size, strict=True)]
    crop = torch.stack([torch.randint(count, (batch, sources), generator=generator) for count in places], -1)
    flip = torch.rand(batch, sources, generator=generator) < 0.5
    mixing = draw_mixing(zone, batch, sources, out_size, seed=seed)
    if sharp:  # each zone shows one source, whole
        shown = torch.randint(sources, (2, batch), generator=generator)
        weights = torch.nn.functional.one_hot(shown, sources).float()
        mixing = Mixing(weights[0], weights[1], out_size, mixing.box, mixing.bitmap)
    return images, index, crop, flip, mixing.inside, mixing.outside, mixing.box, mixing.bitmap, pad


def statistics(channels, dtype):
    if dtype == torch.uint8:
        return None, None
    return [0.1 + 0.7 * k / channels for k in range(channels)], [0.2 + 0.1 * k / channels for k in range(channels)]


def check(arguments, dtype, out_size):
    """Within the rounding to ``dtype`` (and of float32 sums) of the reference in float64; bytes within the one tie."""
    mean, std = statistics(arguments[0].shape[1], dtype)
    got = NATIVE(*arguments, mean, std, dtype, list(out_size))
    assert got.dtype == dtype and got.is_contiguous(memory_format=torch.channels_last)
    if dtype == torch.uint8:
        want = augment_reference(*arguments, None, None, torch.uint8, list(out_size))
        assert (got.int() - want.int()).abs().max() <= 1
        return
    exact = (value.double() if value is not None and value.is_floating_point() else value for value in arguments[:-1])
    want = augment_reference(*exact, arguments[-1], mean, std, torch.float64, list(out_size))
    sums = torch.finfo(dtype if dtype == torch.float64 else torch.float32).eps
    bound = torch.finfo(dtype).eps * want.abs() + 40 * sums
    assert ((got.double() - want).abs() <= bound).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("sharp", [False, True])
@pytest.mark.parametrize("channels", [1, 3, 4, 17])
def test_every_dtype_zone_and_channel_count(dtype, zone, sharp, channels):
    check(draw(channels, zone=zone, sharp=sharp), dtype, (7, 6))


# A row shorter than any vector, exactly one of 16 elements, odd, and those of CIFAR and ImageNet; smaller windows; no padding.
SIZES = [
    ((3, 1), (3, 1), 1),
    ((4, 16), (4, 16), 4),
    ((9, 11), (5, 7), 0),
    ((32, 32), (32, 32), 4),
    ((40, 230), (40, 224), 3),
]


@pytest.mark.parametrize(("size", "out_size", "pad"), SIZES)
@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("sources", [1, 2, 3])
def test_sizes_and_numbers_of_sources(size, out_size, pad, zone, sources):
    for sharp in (False, True):
        check(draw(3, size, out_size, pad, sources, zone, sharp), torch.float32, out_size)


def test_one_source_without_a_mix():
    images, index, crop, flip, *_, pad = draw(sources=1)
    for dtype in DTYPES:
        check((images, index, crop, flip, None, None, None, None, pad), dtype, (7, 6))
        check((images, index, crop, None, None, None, None, None, pad), dtype, (7, 6))


def test_what_a_sharp_zone_shows_is_copied_exactly():
    for zone in ("none", "box", "bitmap"):
        arguments = draw(size=(32, 32), out_size=(32, 32), zone=zone, sharp=True)
        got = NATIVE(*arguments, None, None, torch.uint8, [32, 32])
        assert torch.equal(got, augment_reference(*arguments, None, None, torch.uint8, [32, 32]))


def test_bytes_are_rounded_to_even_and_clamped():
    images = torch.tensor([[1, 3, 200, 255], [2, 4, 201, 255]], dtype=torch.uint8).view(2, 1, 1, 4)
    index, crop = torch.tensor([[0, 1]]), torch.zeros(1, 2, 2, dtype=torch.int64)
    for weights, want in (([0.5, 0.5], [2, 4, 200, 255]), ([2.0, 2.0], [6, 14, 255, 255]), ([-1.0, 0.0], [0, 0, 0, 0])):
        zone = torch.tensor([weights])
        got = NATIVE(images, index, crop, None, zone, zone, None, None, 0, None, None, torch.uint8, [1, 4])
        assert got.flatten().tolist() == want


@pytest.mark.parametrize("zone", ZONES)
def test_any_memory_layout_gives_the_same_bits(zone):
    images, *rest = draw(zone=zone, sharp=zone == "bitmap")
    want = NATIVE(images, *rest, None, None, torch.float32, [7, 6])
    larger = torch.full((7, 5, 11, 10), 77, dtype=torch.uint8)[1:-1, 1:-1, 2:-2, 2:-2]
    larger.copy_(images)
    every_other = images.repeat_interleave(2, 0)[::2]
    for laid_out in (
        images.contiguous(),
        larger,
        every_other,
        images.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1),
    ):
        assert torch.equal(NATIVE(laid_out, *rest, None, None, torch.float32, [7, 6]), want)


def at_the_end_of_memory(images):
    """In channels-last memory with a page behind it that cannot be read: touching it ends the process."""
    return surrounded(images.contiguous(memory_format=torch.channels_last))


linux_only = pytest.mark.skipif(sys.platform != "linux", reason="protects memory as Linux does")


@linux_only
@pytest.mark.parametrize(("channels", "width"), [(1, 5), (3, 5), (3, 6), (3, 32), (4, 9), (17, 3)])
def test_nothing_behind_the_images_is_read(channels, width):
    images, _, crop, flip, inside, outside, box, _, pad = draw(channels, (4, width), (4, width), pad=1, batch=10)
    index = torch.full((10, 2), 4)
    for mirrored in (flip, torch.ones_like(flip), None):
        for zone in ((None,) * 4, (inside, outside, box, None)):
            picked = index if zone[0] is not None else index[:, :1]
            rest = (
                picked,
                crop[:, : picked.shape[1]],
                None if mirrored is None else mirrored[:, : picked.shape[1]],
                *zone,
                pad,
            )
            got = NATIVE(at_the_end_of_memory(images), *rest, None, None, torch.float32, [4, width])
            torch.testing.assert_close(got, augment_reference(images, *rest, None, None, torch.float32, [4, width]))


@linux_only
@pytest.mark.parametrize("zone", ["none", "box", "blend"])
def test_sources_that_are_not_seen_are_not_read(zone):
    """Image 0 is one page; image 1 would be the page behind it."""
    side = int(mmap.PAGESIZE**0.5)
    one_page = before_the_unreadable(side * side, torch.uint8)
    images = one_page.as_strided((2, 1, side, side), (side * side, side * side, side, 1))
    images[0] = torch.randint(256, (1, side, side), dtype=torch.uint8)
    index, crop = torch.tensor([[0, 1]]), torch.zeros(1, 2, 2, dtype=torch.int64)
    first, second = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    everything = torch.tensor([[0, 0, side, side]], dtype=torch.int32)
    inside, outside, box = {
        "none": (second, first, None),
        "box": (first, second, everything),
        "blend": (first / 2, second, everything),
    }[zone]
    got = NATIVE(images, index, crop, None, inside, outside, box, None, 0, None, None, torch.float32, [side, side])
    share = inside[0, 0] if zone == "blend" else 1
    torch.testing.assert_close(got, share * images[:1] / 255)


def test_the_same_bits_for_one_thread_and_two():
    arguments = draw(size=(32, 32), out_size=(32, 32), batch=200)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(NATIVE(*arguments, None, None, torch.float32, [32, 32]))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"index": 5}, "index"),
        ({"index": -1}, "index"),
        ({"index": 2**62}, "index"),
        ({"crop": 5}, "crop"),
        ({"crop": -1}, "crop"),
    ],
)
def test_indices_out_of_range_are_refused(change, words):
    images, index, crop, *rest = draw()
    index.fill_(change.get("index", 0))
    crop.fill_(change.get("crop", 0))
    with pytest.raises(IndexError, match=words):
        NATIVE(images, index, crop, *rest, None, None, torch.float32, [7, 6])


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_geometry(data):
    channels, pad, sources, batch = (
        data.draw(st.integers(low, high)) for low, high in ((1, 5), (0, 3), (1, 3), (0, 4))
    )
    size = data.draw(st.tuples(st.integers(1, 12), st.integers(1, 40)))
    out_size = tuple(data.draw(st.integers(1, side + 2 * pad)) for side in size)
    zone, sharp = data.draw(st.sampled_from(ZONES)), data.draw(st.booleans())
    arguments = draw(channels, size, out_size, pad, sources, zone, sharp, batch, data.draw(st.integers(0, 99)))
    if batch > 0:
        check(arguments, data.draw(st.sampled_from(DTYPES)), out_size)
    else:
        assert NATIVE(*arguments, None, None, torch.float32, list(out_size)).shape == (0, channels, *out_size)


@linux_only
def test_images_beyond_four_gigabytes():
    """Most of the images are never touched, so never there."""
    images = torch.empty(2**20 + 2, 1, 64, 64, dtype=torch.uint8)
    images[-1] = 200
    index, crop = torch.tensor([[2**20 + 1]]), torch.zeros(1, 1, 2, dtype=torch.int64)
    got = NATIVE(images, index, crop, *(None,) * 5, 0, None, None, torch.uint8, [64, 64])
    assert (got == 200).all()
