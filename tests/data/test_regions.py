"""Regions of random-resized crop: within the image and the bounds, and drawn as torchvision draws them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torchvision.transforms import RandomResizedCrop

from mixfast.data.regions import MAX_RATIO, MIN_RATIO, UNIT, Region, draw_regions, span


def drawn(count: int, area: tuple[float, float], size: tuple[int, int], seed: int = 0) -> torch.Tensor:
    return draw_regions(count, area, size, generator=torch.Generator().manual_seed(seed))


def boxes_of(regions: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """top, left, height and width in pixels, [N, 4]."""
    (top, height), (left, width) = (span(regions[:, 2 + k], regions[:, k], size[k]) for k in range(2))
    return torch.stack([top, left, height, width], 1)


AREAS = st.tuples(st.floats(0.001, 1), st.floats(0.001, 1)).map(sorted).map(tuple)
SIDES = st.integers(1, 2000)


@settings(max_examples=200, deadline=None)
@given(area=AREAS, height=SIDES, width=SIDES, seed=st.integers(0, 2**31))
def test_regions_lie_in_the_image_and_within_their_bounds(area, height, width, seed) -> None:
    regions = drawn(50, area, (height, width), seed)
    assert regions.dtype == torch.int64 and regions.shape == (50, 4)
    places, sides = regions[:, :2], regions[:, 2:].double() / UNIT
    assert (places >= 0).all() and (places < UNIT).all() and (sides > 0).all() and (sides <= 1).all()
    ratios = sides[:, 1] * width / (sides[:, 0] * height)
    assert (ratios > MIN_RATIO * 0.999).all() and (ratios < MAX_RATIO * 1.001).all()
    shares = sides.prod(1)
    is_central = (places == UNIT // 2 - 1).all(1)
    assert (shares[~is_central] > area[0] * 0.999 - 1e-5).all() and (shares <= area[1] * 1.001 + 1e-5)[
        ~is_central
    ].all()
    top, left, rows, columns = boxes_of(regions, (height, width)).unbind(1)
    assert (top >= 0).all() and (rows >= 1).all() and (top + rows <= height).all()
    assert (left >= 0).all() and (columns >= 1).all() and (left + columns <= width).all()


@settings(max_examples=300, deadline=None)
@given(share=st.integers(0, UNIT), place=st.integers(0, UNIT - 1), side=st.integers(1, 30_000))
def test_a_span_is_the_same_for_numbers_and_tensors(share, place, side) -> None:
    start, length = span(share, place, side)
    assert 0 <= start and 1 <= length and start + length <= side
    assert abs(length - share * side / UNIT) <= 0.5 or length == 1
    of_tensors = span(torch.tensor([share]), torch.tensor([place]), side)
    assert [int(value) for value in of_tensors] == [start, length]


@pytest.mark.parametrize("size", [(640, 640), (400, 900), (3000, 600)], ids=str)
@pytest.mark.parametrize("area", [(0.08, 1.0), (0.3, 0.6)], ids=str)
def test_boxes_are_distributed_as_torchvisions(size, area) -> None:
    """The last shape often fits in no try, where the region is the central one. (Large, for torchvision accepts what fits after
    rounding to pixels, here it is what fits.)"""
    torch.manual_seed(0)
    image, ratio = torch.empty(1, *size), (MIN_RATIO, MAX_RATIO)
    expected = np.array([RandomResizedCrop.get_params(image, list(area), list(ratio)) for _ in range(4000)])
    got = boxes_of(drawn(4000, area, size), size).numpy()
    for column in range(4):
        assert stats.ks_2samp(got[:, column], expected[:, column]).pvalue > 1e-3
    areas = [boxes[:, 2] * boxes[:, 3] / math.prod(size) for boxes in (got, expected)]
    assert stats.ks_2samp(*areas).pvalue > 1e-3
    central = (size[0] - min(size) * 4 / 3) / 2 if max(size) > 4 * min(size) else None
    if central is not None:  # 800 x 600 in 3000 x 600
        share = [np.mean((boxes[:, 0] == central) & (boxes[:, 2] == 800)) for boxes in (got, expected)]
        assert share[0] > 0.01 and abs(share[0] - share[1]) < 0.03


def test_in_a_square_few_regions_are_redrawn_and_the_area_is_uniform() -> None:
    """Tries of more than 3/4 of the area fail more often than not, so that the mean lies below the middle of the bounds."""
    shares = drawn(100_000, (0.08, 0.7), (1, 1))[:, 2:].double().div(UNIT).prod(1)
    assert shares.mean().item() == pytest.approx(0.39, abs=0.003)
    assert drawn(100_000, (0.08, 1.0), (1, 1))[:, 2:].double().div(UNIT).prod(1).mean() < 0.53


def test_a_seed_gives_the_same_regions_whatever_the_pixels() -> None:
    assert torch.equal(drawn(9, (0.1, 1.0), (30, 60)), drawn(9, (0.1, 1.0), (300, 600)))
    assert not torch.equal(drawn(9, (0.1, 1.0), (30, 60)), drawn(9, (0.1, 1.0), (30, 60), seed=1))


def test_the_whole_image_is_one_region() -> None:
    whole = Region(0, 0, UNIT, UNIT)
    for side in (1, 7, 500):
        assert span(whole.height, whole.top, side) == (0, side)
