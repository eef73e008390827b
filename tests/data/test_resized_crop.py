"""Cutting and resizing a batch against torchvision image by image, and its weights against torch's own filter."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as transforms

from mixfast.data import resized_crop as module
from mixfast.data.regions import UNIT, draw_regions, span
from mixfast.data.resized_crop import ONE, resized_crop, triangle_weights

CASES = [
    ((32, 32), (32, 32)),
    ((50, 37), (24, 30)),
    ((256, 256), (224, 224)),
    ((64, 64), (8, 8)),
    ((9, 9), (32, 32)),
    ((300, 200), (7, 5)),
]


def images_of(size: tuple[int, int], count: int = 5, channels: int = 3) -> torch.Tensor:
    pixels = np.random.default_rng(0).integers(0, 256, (count, *size, channels), np.uint8)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def regions_of(count: int, size: tuple[int, int]) -> torch.Tensor:
    return draw_regions(count, (0.08, 1.0), size, generator=torch.Generator().manual_seed(0))


def box_of(region: torch.Tensor, size: tuple[int, int]) -> tuple[int, int, int, int]:
    top, left, height, width = region.tolist()
    (top, height), (left, width) = span(height, top, size[0]), span(width, left, size[1])
    return top, left, height, width


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("size", "out"), CASES, ids=str)
def test_it_is_torchvisions_and_pillows_to_a_level(size, out, channels) -> None:
    images, regions, index = images_of(size, channels=channels), regions_of(20, size), torch.arange(20) % 5
    got = resized_crop(images, index, regions, out)
    assert got.dtype == torch.uint8 and got.shape == (20, channels, *out)
    assert got.is_contiguous(memory_format=torch.channels_last)
    for view, region, place in zip(got, regions, index, strict=True):
        top, left, height, width = box_of(region, size)
        # In float64: of bytes, torchvision's weights have as few bits as fit into 16.
        exact = transforms.resized_crop(images[place].double(), top, left, height, width, list(out), antialias=True)
        assert (view - exact.round()).abs().max() <= 1
        picture = Image.fromarray(images[place].permute(1, 2, 0).numpy().squeeze())
        picture = picture.crop((left, top, left + width, top + height)).resize(out[::-1], Image.Resampling.BILINEAR)
        assert np.abs(np.array(picture, dtype=int) - view.permute(1, 2, 0).numpy().squeeze()).max() <= 1


@settings(max_examples=100, deadline=None)
@given(side=st.integers(1, 90), out=st.integers(1, 90), data=st.data())
def test_weights_are_those_of_torchs_filter(side, out, data) -> None:
    start = data.draw(st.integers(0, side - 1))
    length = data.draw(st.integers(1, side - start))
    (weights,) = triangle_weights(torch.tensor([start]), torch.tensor([length]), side, out, torch.float64)
    each_pixel = torch.eye(length, dtype=torch.float64)[:, None, :, None].expand(-1, -1, -1, 2)
    expected = F.interpolate(each_pixel, (out, 2), mode="bilinear", antialias=True)[:, 0, :, 0].T
    torch.testing.assert_close(weights[:, start : start + length], expected, rtol=0, atol=1e-12)
    assert weights.sum() == pytest.approx(out) and weights[:, :start].sum() == weights[:, start + length :].sum() == 0


@pytest.mark.parametrize(("size", "out"), CASES, ids=str)
def test_every_sum_is_one_of_whole_numbers(size, out) -> None:
    """Done in integers, in which nothing can depend on an order or a device, it is the same to the bit."""
    images, regions = images_of(size), regions_of(5, size)

    def resampled(pixels: torch.Tensor, k: int) -> torch.Tensor:
        """Along the next to last dimension."""
        spans = span(regions[:, 2 + k], regions[:, k], size[k])
        weights = (triangle_weights(*spans, size[k], out[k], torch.float32) * ONE).round().long()
        return (torch.einsum("nol,nclx->ncox", weights, pixels) + ONE // 2) // ONE

    expected = resampled(resampled(images.long().transpose(2, 3), 1).transpose(2, 3), 0)
    assert torch.equal(resized_crop(images, torch.arange(5), regions, out).long(), expected)


def test_the_whole_image_at_its_own_size_is_itself() -> None:
    images = images_of((31, 17))
    whole = torch.tensor([[0, 0, UNIT, UNIT]]).repeat(5, 1)
    assert torch.equal(resized_crop(images, torch.arange(5), whole, (31, 17)), images)


@pytest.mark.parametrize("value", [0, 1, 128, 254, 255])
def test_a_flat_image_stays_flat(value) -> None:
    images = torch.full((1, 1, 1024, 1024), value, dtype=torch.uint8)
    regions = regions_of(6, (1024, 1024))
    for out in (8, 33, 224):
        assert (resized_crop(images, torch.zeros(6, dtype=torch.int64), regions, (out, out)) == value).all()


def test_a_view_does_not_depend_on_the_others(monkeypatch) -> None:
    """To the bit: cut alone, in another order or a few at a time, on half-way values that any other rounding would tip."""
    images = images_of((64, 64)) // 255 * 255
    regions, index = regions_of(40, (64, 64)), torch.arange(40) % 5
    regions[::2, 2:] = UNIT // 2
    whole = resized_crop(images, index, regions, (16, 16))
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    assert torch.equal(resized_crop(images, index[order], regions[order], (16, 16)), whole[order])
    assert torch.equal(resized_crop(images, index[7:8], regions[7:8], (16, 16)), whole[7:8])
    monkeypatch.setattr(module, "_ENTRIES", 3 * images[0].numel())
    assert torch.equal(resized_crop(images, index, regions, (16, 16)), whole)


def test_memory_layout_does_not_matter() -> None:
    images, regions, index = images_of((20, 30)), regions_of(5, (20, 30)), torch.arange(5)
    assert torch.equal(
        resized_crop(images, index, regions, (9, 9)), resized_crop(images.contiguous(), index, regions, (9, 9))
    )


def test_no_view_at_all() -> None:
    nothing = torch.zeros(0, dtype=torch.int64)
    assert resized_crop(images_of((8, 8)), nothing, nothing.view(0, 1).expand(0, 4), (4, 5)).shape == (0, 3, 4, 5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="only a GPU can be waited for")
def test_a_gpu_gives_the_same_bits_and_the_host_never_waits_for_it() -> None:
    images, index, regions = images_of((64, 64)), torch.arange(5), regions_of(5, (64, 64))
    on_gpu, generator = [value.cuda() for value in (images, index, regions)], torch.Generator("cuda")
    resized_crop(*on_gpu, (48, 48))
    torch.cuda.set_sync_debug_mode("error")
    try:
        draw_regions(5, (0.08, 1.0), (64, 64), generator=generator)
        got = resized_crop(*on_gpu, (48, 48))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(got.cpu(), resized_crop(images, index, regions, (48, 48)))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"images": torch.zeros(1, 3, 8, 8)}, TypeError, "images must be uint8"),
        ({"index": torch.zeros(2)}, TypeError, "index must be int64, got torch.float32"),
        ({"regions": torch.zeros(2, 4)}, TypeError, "regions must be int64"),
        (
            {"regions": torch.zeros(3, 4, dtype=torch.int64)},
            ValueError,
            r"regions must have shape \[2, 4\], got \[3, 4\]",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_refused(changes, error, message) -> None:
    arguments = {"images": images_of((8, 8)), "index": torch.tensor([0, 1]), "regions": regions_of(2, (8, 8))}
    with pytest.raises(error, match=message):
        resized_crop(**{**arguments, **changes}, size=(4, 4))
