"""Each mask family against a naive loop over samples that redraws the same random numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mixfast_kernels import Mixing
from scipy.ndimage import gaussian_filter
from scipy.stats import norm

from mixfast.mixing import MASKS, draw_zone
from mixfast.mixing.concat import draw_horizontal_box, draw_vertical_box
from mixfast.mixing.cowmask import draw_cowmask_bitmap
from mixfast.mixing.fmix import draw_fmix_bitmap
from mixfast.mixing.patchup import draw_patchup_bitmap
from mixfast.mixing.rectangle import draw_box

BATCH = 24
# 32 and 64: CIFAR and Tiny ImageNet stems; the others: odd, oblong, and smaller than a PatchUp block.
GRIDS = [(32, 32), (64, 64), (7, 12), (5, 3), (1, 1)]


def spread_kappa(batch: int = BATCH) -> torch.Tensor:
    """0, 1 and everything between."""
    return torch.linspace(0, 1, batch)


def area_of(zone: dict[str, torch.Tensor], grid: tuple[int, int]) -> torch.Tensor:
    """Share of the grid inside, through ``Mixing`` as users get it."""
    (value,) = zone.values()
    ones = torch.ones(len(value), 1)
    return Mixing(ones, torch.zeros_like(ones), grid, **zone).ratios()[:, 0]


@pytest.mark.parametrize("grid", GRIDS)
def test_rectangle_equals_the_loop(generator, grid):
    kappa = spread_kappa()
    boxes = draw_box(kappa, grid, generator=generator(1))
    redraw = generator(1)
    rows = torch.randint(grid[0], (BATCH,), generator=redraw).tolist()
    columns = torch.randint(grid[1], (BATCH,), generator=redraw).tolist()
    for b, (row, column) in enumerate(zip(rows, columns, strict=True)):
        side = np.sqrt(kappa[b].numpy())
        half_height = int(np.float32(grid[0]) * side) // 2
        half_width = int(np.float32(grid[1]) * side) // 2
        expected = [
            max(0, row - half_height),
            max(0, column - half_width),
            min(grid[0], row + half_height),
            min(grid[1], column + half_width),
        ]
        assert boxes[b].tolist() == expected
    assert boxes.dtype == torch.int32


def test_rectangle_areas_have_the_mean_of_all_centres(generator):
    grid, kappa, draws = (16, 10), 0.4, 20_000
    half_height, half_width = int(16 * math.sqrt(kappa)) // 2, int(10 * math.sqrt(kappa)) // 2
    heights = [min(16, row + half_height) - max(0, row - half_height) for row in range(16)]
    widths = [min(10, column + half_width) - max(0, column - half_width) for column in range(10)]
    expected = np.mean(heights) * np.mean(widths) / 160
    areas = area_of({"box": draw_box(torch.full((draws,), kappa), grid, generator=generator(2))}, grid).double()
    assert abs(areas.mean().item() - expected) < 4 * areas.std().item() / math.sqrt(draws)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("axis", [0, 1])
def test_concatenation_equals_the_loop(generator, grid, axis):
    kappa = spread_kappa()
    draw = draw_vertical_box if axis == 0 else draw_horizontal_box
    boxes = draw(kappa, grid, generator=generator(4))
    coins = torch.rand(BATCH, generator=generator(4)).tolist()
    length = grid[axis]
    for b, coin in enumerate(coins):
        share = kappa[b].numpy()
        if coin < 0.5:
            start, end = int((np.float32(1) - share) * np.float32(length)), length
        else:
            start, end = 0, int(share * np.float32(length))
        expected = [0, 0, *grid]
        expected[axis], expected[axis + 2] = start, end
        assert boxes[b].tolist() == expected


def test_concatenation_takes_either_end_and_keeps_the_area(generator):
    boxes = draw_horizontal_box(torch.full((4_000,), 0.25), (8, 32), generator=generator(5))
    assert set(map(tuple, boxes.tolist())) == {(0, 0, 8, 8), (0, 24, 8, 32)}
    at_left = (boxes[:, 1] == 0).double().mean().item()
    assert abs(at_left - 0.5) < 4 * 0.5 / math.sqrt(4_000)


@pytest.mark.parametrize("grid", GRIDS)
def test_patchup_equals_the_loop(generator, grid):
    height, width = grid
    kappa = spread_kappa()
    bitmap = draw_patchup_bitmap(kappa, grid, generator=generator(6))
    uniform = torch.rand((BATCH, 1, *grid), generator=generator(6)).squeeze(1).double().numpy()
    block = {32: 7, 64: 7, 7: 7, 5: 3, 1: 1}[height]
    for b in range(BATCH):
        rate = kappa[b].item() * height * width / (block**2 * (height - block + 1) * (width - block + 1))
        expected = np.zeros(grid, dtype=bool)
        for row, column in zip(*np.nonzero(uniform[b] < rate), strict=True):
            reach = block // 2
            expected[max(0, row - reach) : row + reach + 1, max(0, column - reach) : column + reach + 1] = True
        np.testing.assert_array_equal(bitmap[b].numpy(), expected)


def test_patchup_covers_each_cell_as_often_as_its_seeds_say(generator):
    grid, kappa, draws = (16, 16), 0.5, 4_000
    bitmap = draw_patchup_bitmap(torch.full((draws,), kappa), grid, generator=generator(7)).double()
    rate = kappa * 256 / (49 * 100)
    reachable = [min(16, i + 4) - max(0, i - 3) for i in range(16)]
    expected = np.mean([1 - (1 - rate) ** (rows * columns) for rows in reachable for columns in reachable])
    areas = bitmap.mean((1, 2))
    assert abs(areas.mean().item() - expected) < 4 * areas.std().item() / math.sqrt(draws)


@pytest.mark.parametrize("grid", GRIDS)
def test_fmix_sets_exactly_the_highest_cells(generator, grid):
    kappa = spread_kappa()
    bitmap = draw_fmix_bitmap(kappa, grid, generator=generator(8)).numpy()
    noise = torch.randn((BATCH, *grid), generator=generator(8)).double().numpy()
    amplitude = np.empty(grid)
    for u in range(grid[0]):
        for v in range(grid[1]):
            cycles_u, cycles_v = (min(k, size - k) / size for k, size in ((u, grid[0]), (v, grid[1])))
            amplitude[u, v] = max(math.hypot(cycles_u, cycles_v), 1 / max(grid)) ** -3
    for b in range(BATCH):
        field = np.fft.ifft2(np.fft.fft2(noise[b]) * amplitude).real
        assert bitmap[b].sum() == round(float(kappa[b] * grid[0] * grid[1]))
        if 0 < bitmap[b].sum() < bitmap[b].size:
            assert field[bitmap[b]].min() > field[~bitmap[b]].max() - 1e-4 * field.std()


@settings(deadline=None)
@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=6), st.integers(1, 12), st.integers(1, 12))
def test_fmix_counts_are_exact_for_every_ratio(kappa, height, width):
    wanted = torch.tensor(kappa)
    bitmap = draw_fmix_bitmap(wanted, (height, width), generator=torch.Generator().manual_seed(0))
    assert bitmap.sum((1, 2)).tolist() == (wanted * (height * width)).round().long().tolist()


@pytest.mark.parametrize("grid", [(32, 32), (64, 64), (7, 12), (5, 3)])
def test_cowmask_equals_the_loop(generator, grid):
    bitmap = draw_cowmask_bitmap(spread_kappa(), grid, generator=generator(9)).numpy()
    redraw = generator(9)
    proportions = 0.2 + 0.6 * torch.rand(BATCH, generator=redraw).double().numpy()
    sigmas = np.exp(np.log(4) + np.log(4) * torch.rand(BATCH, generator=redraw).double().numpy())
    noise = torch.randn((BATCH, *grid), generator=redraw).double().numpy()
    for b in range(BATCH):
        field = gaussian_filter(noise[b], sigmas[b], mode="constant", truncate=max(grid) / 4)
        level = (field - field.mean()) / field.std() - norm.ppf(proportions[b])
        clear = np.abs(level) > 1e-4  # float32 may fall on either side of the threshold itself
        assert clear.mean() > 0.9
        np.testing.assert_array_equal(bitmap[b][clear], level[clear] <= 0)


def test_cowmask_ignores_kappa_and_averages_one_half(generator):
    low, high = (draw_cowmask_bitmap(torch.full((4_000,), k), (16, 16), generator=generator(10)) for k in (0.0, 1.0))
    assert torch.equal(low, high)
    areas = low.double().mean((1, 2))
    assert abs(areas.mean().item() - 0.5) < 4 * areas.std().item() / math.sqrt(4_000)


@pytest.mark.parametrize("mask", MASKS)
@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**31))
def test_zones_stay_in_the_grid_and_close_to_the_wanted_area(mask, height, width, seed):
    grid, kappa = (height, width), spread_kappa(6)
    zone = draw_zone(mask, kappa, grid, generator=torch.Generator().manual_seed(seed))
    if "box" in zone:
        top, left, bottom, right = zone["box"].unbind(1)
        assert ((top >= 0) & (top <= bottom) & (bottom <= height)).all()
        assert ((left >= 0) & (left <= right) & (right <= width)).all()
    else:
        assert zone["bitmap"].shape == (6, height, width) and zone["bitmap"].dtype == torch.bool
    area = area_of(zone, grid)
    slack = {"rectangle": 0, "horizontal": 1 / width, "vertical": 1 / height, "fmix": 0.5 / (height * width)}
    if mask in slack:
        assert (area <= kappa + slack[mask] + 1e-6).all()
    if mask in slack and mask != "rectangle":
        assert (area >= kappa - slack[mask] - 1e-6).all()


@pytest.mark.parametrize("mask", MASKS)
def test_one_seed_gives_one_zone_and_samples_differ(generator, mask):
    first, again, other = (draw_zone(mask, torch.full((8,), 0.4), (16, 16), generator=generator(s)) for s in (1, 1, 2))
    (form,) = first
    assert torch.equal(first[form], again[form])
    assert not torch.equal(first[form], other[form])
    assert len(torch.unique(first[form].flatten(1), dim=0)) > 1


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_any_float_kappa_gives_the_same_zone(generator, mask, dtype):
    kappa = torch.tensor([0.0, 0.25, 0.5, 1.0])
    (expected,) = draw_zone(mask, kappa, (16, 16), generator=generator()).values()
    (zone,) = draw_zone(mask, kappa.to(dtype), (16, 16), generator=generator()).values()
    assert torch.equal(zone, expected)


@pytest.mark.parametrize("mask", MASKS)
def test_an_empty_batch_gives_an_empty_zone(generator, mask):
    (zone,) = draw_zone(mask, torch.empty(0), (8, 8), generator=generator()).values()
    assert zone.shape in ((0, 4), (0, 8, 8))


@pytest.mark.parametrize("mask", MASKS)
def test_zones_draw_without_reading_values_on_the_host(mask):
    (zone,) = draw_zone(mask, torch.empty(3, device="meta"), (8, 8), generator=None).values()
    assert zone.device.type == "meta"


def test_unknown_masks_name_the_nearest():
    with pytest.raises(ValueError, match="unknown mask 'cowmsk'.*did you mean 'cowmask'"):
        draw_zone("cowmsk", torch.ones(1), (4, 4), generator=None)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize(
    ("kappa", "grid", "error", "message"),
    [
        (torch.ones(2, dtype=torch.int64), (4, 4), TypeError, "kappa must be a floating-point tensor"),
        (0.5, (4, 4), TypeError, r"kappa must be a floating-point tensor \[B\]; got float"),
        (torch.ones(2, 2), (4, 4), ValueError, r"\[B\]; got shape \(2, 2\)"),
        (torch.ones(2), (0, 4), ValueError, r"grid must be .* got \(0, 4\)"),
        (torch.ones(2, device="meta"), (4, 4), ValueError, "generator must live on meta"),
    ],
)
def test_bad_arguments_are_refused(generator, mask, kappa, grid, error, message):
    with pytest.raises(error, match=message):
        draw_zone(mask, kappa, grid, generator=generator())
