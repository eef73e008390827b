"""Random erasing against timm's, whose settings it has, and against what its rectangles must be."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from mixfast.data.erasing import draw_rectangles, random_erasing


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def call(images: Tensor, probability: float, host_seed: int = 0, device_seed: int = 0) -> Tensor:
    rng = np.random.default_rng(host_seed)
    return random_erasing(images, probability, host_rng=rng, generator=generator(device_seed))


def blank(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A value that noise never has, so that what is erased shows."""
    return torch.full(shape, 1000.0, dtype=dtype)


def erased_boxes(images: Tensor) -> list[tuple[int, int, int, int] | None]:
    """Top, left, bottom and right of what is erased in each blank image; refuses anything but whole rectangles."""
    boxes = []
    for image in images:
        is_erased = image != 1000
        assert (is_erased == is_erased[:1]).all()  # all channels alike
        rows, columns = (torch.nonzero(is_erased[0].any(axis)).flatten().tolist() for axis in (1, 0))
        if not rows:
            boxes.append(None)
            continue
        box = (rows[0], columns[0], rows[-1] + 1, columns[-1] + 1)
        assert is_erased[0, box[0] : box[2], box[1] : box[3]].all()
        boxes.append(box)
    return boxes


SIZES = pytest.mark.parametrize("size", [(32, 32), (16, 48)], ids=str)


@SIZES
def test_sides_are_distributed_as_timms(size: tuple[int, int]) -> None:
    from timm.data.random_erasing import RandomErasing

    count = 6000
    random.seed(0)
    theirs = erased_boxes(RandomErasing(probability=1, mode="const", device="cpu")(blank(count, 1, *size)))
    assert theirs.count(None) < 0.01 * count  # in ten tries nearly all fit

    def sides(boxes: np.ndarray) -> dict[str, np.ndarray]:
        top, left, bottom, right = boxes.T
        rows, columns = bottom - top, right - left
        return {"height": rows, "width": columns, "area": rows * columns, "aspect": rows / columns}

    drawn = draw_rectangles(100_000, size, generator=generator()).numpy()
    ours, expected = sides(drawn[drawn[:, 2] > drawn[:, 0]]), sides(np.array([box for box in theirs if box]))
    p_values = {name: stats.ks_2samp(ours[name], expected[name]).pvalue for name in ours}
    assert min(p_values.values()) > 1e-3, p_values


@SIZES
def test_places_are_uniform_wherever_the_rectangle_fits(size: tuple[int, int]) -> None:
    boxes = draw_rectangles(100_000, size, generator=generator()).numpy()
    rng = np.random.default_rng(0)
    # A whole number in 0..room, plus a uniform one, over room + 1 is uniform in 0..1.
    places = [
        (start + rng.random(len(boxes))) / (length - (end - start) + 1)
        for start, end, length in zip(boxes.T[:2], boxes.T[2:], size, strict=True)
    ]
    for place in places:
        assert stats.kstest(place, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(*places)[0, 1]) < 4 / math.sqrt(len(boxes))


@settings(max_examples=60, deadline=None)
@given(height=st.integers(1, 70), width=st.integers(1, 70), count=st.integers(0, 40), seed=st.integers(0, 1000))
def test_rectangles_fit_and_have_the_area_and_shape_asked_for(height: int, width: int, count: int, seed: int) -> None:
    boxes = draw_rectangles(count, (height, width), generator=generator(seed))
    assert boxes.shape == (count, 4)
    for top, left, bottom, right in boxes.tolist():
        rows, columns = bottom - top, right - left
        assert 0 <= top <= bottom <= height and 0 <= left <= right <= width
        assert rows < height and columns < width
        # Sides are rounded, so each stands for a whole range.
        largest, smallest = (rows + 0.5) * (columns + 0.5), max(0, rows - 0.5) * max(0, columns - 0.5)
        assert smallest <= height * width / 3 + 1e-3
        if rows or columns:
            assert largest >= 0.02 * height * width - 1e-3
            assert max(0, rows - 0.5) / (columns + 0.5) <= 1 / 0.3 + 1e-3
            assert max(0, columns - 0.5) / (rows + 0.5) <= 1 / 0.3 + 1e-3


def test_images_are_erased_with_the_probability_each_in_one_rectangle() -> None:
    images = blank(8000, 2, 16, 16)
    boxes = erased_boxes(call(images, 0.25))
    assert stats.binomtest(sum(box is not None for box in boxes), 8000, 0.25).pvalue > 1e-3
    assert (images == 1000).all()
    assert len({box for box in boxes if box is not None}) > 1000


def test_noise_is_standard_normal_and_independent() -> None:
    erased = call(blank(300, 3, 32, 32), 1.0)
    noise = erased[erased != 1000].double().numpy()
    assert noise.size > 100_000
    assert stats.kstest(noise, "norm").pvalue > 1e-3
    values = [image[:, image[0] != 1000] for image in erased]
    channels = torch.cat(values, 1).double().numpy()
    between = np.corrcoef(channels)[~np.eye(3, dtype=bool)]
    along = [np.corrcoef(channel[:-1], channel[1:])[0, 1] for channel in channels]
    assert np.abs([*between, *along]).max() < 4 / math.sqrt(channels.shape[1])


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(0, 9),
    channels=st.integers(1, 4),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    probability=st.floats(0, 1),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
    seed=st.integers(0, 1000),
)
def test_everything_else_stays(batch, channels, height, width, probability, dtype, seed) -> None:
    images = torch.randn((batch, channels, height, width), generator=generator(seed)).to(dtype) + 100
    before = images.clone()
    erased = call(images, probability, seed, seed)
    assert erased.shape == images.shape and erased.dtype == dtype
    assert torch.isfinite(erased).all()
    assert torch.equal(images, before)
    changed = (erased != images).any(1)
    for image, is_changed in zip(erased, changed, strict=True):
        rows, columns = is_changed.any(1), is_changed.any(0)
        assert torch.equal(is_changed, rows[:, None] & columns)
        assert image[:, is_changed].abs().max() < 10 if is_changed.any() else True


def test_what_is_erased_leaves_no_trace() -> None:
    poisoned = call(torch.full((40, 3, 24, 24), math.nan), 1.0)
    clean = call(blank(40, 3, 24, 24), 1.0)
    assert torch.equal(torch.isnan(poisoned), clean == 1000)


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (30, 1)], ids=str)
def test_images_without_room_stay_whole(size: tuple[int, int]) -> None:
    images = blank(50, 3, *size)
    assert torch.equal(call(images, 1.0), images)


def test_the_two_generators_decide_everything_and_divide_the_work() -> None:
    images = blank(64, 3, 16, 16)
    first = call(images, 0.5, 1, 2)
    torch.rand(3)
    assert torch.equal(call(images, 0.5, 1, 2), first)

    def who(seed: int, other: int) -> list[bool]:
        return [box is not None for box in erased_boxes(call(images, 0.5, seed, other))]

    assert who(1, 2) == who(1, 3) != who(4, 2)
    assert not torch.equal(call(images, 0.5, 1, 3), first)


def test_layout_of_the_input_does_not_matter() -> None:
    images = torch.randn(6, 3, 14, 10)
    expected = call(images, 1.0)
    strided = torch.zeros(12, 3, 14, 20)
    strided[::2, :, :, ::2] = images
    for variant in (images.contiguous(memory_format=torch.channels_last), strided[::2, :, :, ::2]):
        assert torch.equal(call(variant, 1.0), expected)
    one = images[:1].expand(6, -1, -1, -1)
    assert torch.equal(call(one, 1.0), call(one.clone(), 1.0))
    assert expected.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="only a GPU can be waited for")
def test_host_never_waits_for_the_device() -> None:
    images, rng = blank(64, 3, 32, 32).cuda(), np.random.default_rng(0)
    on_device = torch.Generator("cuda").manual_seed(0)
    random_erasing(images, 0.5, host_rng=rng, generator=on_device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        random_erasing(images, 0.5, host_rng=rng, generator=on_device)
    finally:
        torch.cuda.set_sync_debug_mode("default")


IMAGES = torch.zeros(2, 3, 4, 4)


@pytest.mark.parametrize(
    ("images", "changes", "error", "message"),
    [
        (np.zeros((2, 3, 4, 4)), {}, TypeError, "images must be a floating-point tensor, normalised, got ndarray"),
        (IMAGES.byte(), {}, TypeError, "images must be a floating-point tensor, normalised, got torch.uint8"),
        (IMAGES[0], {}, ValueError, r"images must have shape \[B, c, H, W\].*got \(3, 4, 4\)"),
        (IMAGES[..., :0], {}, ValueError, r"at least one pixel, got \(2, 3, 4, 0\)"),
        (IMAGES, {"probability": 1.1}, ValueError, "probability must lie in 0..1, got 1.1"),
        (IMAGES, {"probability": math.nan}, ValueError, "probability must lie in 0..1, got nan"),
        (IMAGES, {"host_rng": 0}, TypeError, "host_rng must be a numpy.random.Generator, got int"),
        (IMAGES, {"generator": None}, TypeError, "generator must be a torch.Generator, got NoneType"),
        (IMAGES.to("meta"), {}, ValueError, "generator must be on the images' device meta"),
    ],
)
def test_errors_name_the_argument_and_come_before_any_draw(images, changes, error, message) -> None:
    rng, on_device = np.random.default_rng(0), generator()
    before = rng.bit_generator.state, on_device.get_state()
    with pytest.raises(error, match=message):
        random_erasing(images, **({"probability": 0.5, "host_rng": rng, "generator": on_device} | changes))
    assert rng.bit_generator.state == before[0]
    assert torch.equal(on_device.get_state(), before[1])
