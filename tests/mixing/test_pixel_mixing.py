"""Pixel mixing and the visible-share label rule against brute-force counting of pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from mixfast_kernels import Mixing
from scipy import stats

from mixfast.mixing import (
    MASKS,
    PIXEL_MIXINGS,
    cut_mixing,
    draw_pixel_mixing,
    draw_ratios,
    keep_main_predominant,
    linear_mixing,
    visible_share,
)


def counted_share(pixel_mixing: Mixing, slot_weights: torch.Tensor) -> np.ndarray:
    """The main image's share of what each slot shows, pixel by pixel; pixel (y, x) lies under one slot position."""
    height, width = pixel_mixing.grid
    main = pixel_mixing.weights()[:, 0].double().numpy()
    weights = slot_weights.double().numpy()
    share = np.ones(len(weights))
    for n in range(len(weights)):
        main_seen = all_seen = 0.0
        for y in range(height):
            for x in range(width):
                weight = weights[n, y * weights.shape[1] // height, x * weights.shape[2] // width]
                main_seen += weight * main[n, y, x]
                all_seen += weight
        if all_seen > 0:
            share[n] = main_seen / all_seen
    return share


def drawn_slots(seed: int, num_inputs: int, mask: str | None, grid: tuple[int, int]) -> torch.Tensor:
    """Weights ``[B * M, H, W]`` of all slots of six samples; ``mask`` None mixes linearly."""
    generator = torch.Generator().manual_seed(seed)
    kappa = draw_ratios(6, num_inputs, 1.0, generator=generator, device="cpu")
    mixing = linear_mixing(kappa, grid) if mask is None else cut_mixing(kappa, grid, mask=mask, generator=generator)
    return mixing.weights().flatten(0, 1)


@pytest.mark.parametrize("kind", PIXEL_MIXINGS)
def test_images_are_mixed_with_the_probability_and_others_left_alone(generator, kind):
    images = 8_000
    mixing = draw_pixel_mixing(kind, images, (16, 16), 1.0, 0.3, generator=generator(), device="cpu")
    alone = (mixing.outside == torch.tensor([1.0, 0.0])).all(1)
    assert abs(alone.double().mean().item() - 0.7) < 4 * math.sqrt(0.21 / images)
    weights = mixing.weights()
    assert (weights[alone, 0] == 1).all() and (weights[alone, 1] == 0).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(images, 16, 16))


@pytest.mark.parametrize("kind", PIXEL_MIXINGS)
def test_the_structure_does_not_depend_on_who_is_mixed(generator, kind):
    none, every = (draw_pixel_mixing(kind, 4, (8, 8), 1.0, p, generator=generator(), device="cpu") for p in (0.0, 1.0))
    assert (none.box is None) == (every.box is None) == (kind == "mixup")
    assert torch.equal(none.ratios()[:, 0], torch.ones(4))
    assert not torch.equal(every.ratios(), none.ratios())


def test_cutmix_shows_the_main_image_in_the_box(generator):
    mixing = draw_pixel_mixing("cutmix", 64, (16, 16), 1.0, 1.0, generator=generator(), device="cpu")
    weights = mixing.weights()
    for n, (top, left, bottom, right) in enumerate(mixing.box.tolist()):
        expected = torch.zeros(16, 16)
        expected[top:bottom, left:right] = 1
        assert torch.equal(weights[n, 0], expected)
        assert torch.equal(weights[n, 1], 1 - expected)
    lambdas = draw_ratios(64, 2, 1.0, generator=generator(), device="cpu")[:, 0]
    assert (mixing.ratios()[:, 0] <= lambdas).all()


def test_mixup_weighs_images_by_lambda(generator):
    mixing = draw_pixel_mixing("mixup", 64, (8, 8), 0.5, 1.0, generator=generator(), device="cpu")
    assert torch.equal(mixing.ratios(), draw_ratios(64, 2, 0.5, generator=generator(), device="cpu"))


def test_both_at_once_weigh_the_zones_of_cutmix_the_other_way_round(generator):
    """The box is CutMix's from the same draws; l' is Beta(mixup_alpha, mixup_alpha), whatever the box's area."""
    images, alpha = 4_000, 0.8
    both = draw_pixel_mixing(
        "cutmix-mixup", images, (16, 12), 1.0, 1.0, mixup_alpha=alpha, generator=generator(), device="cpu"
    )
    cutmix = draw_pixel_mixing("cutmix", images, (16, 12), 1.0, 1.0, generator=generator(), device="cpu")
    assert torch.equal(both.box, cutmix.box)
    ratio = both.inside[:, 0].double()
    torch.testing.assert_close(both.inside[:, 1].double(), 1 - ratio, rtol=0, atol=1e-6)
    torch.testing.assert_close(both.outside, both.inside.flip(1), rtol=0, atol=1e-6)
    assert stats.kstest(ratio.numpy(), stats.beta(alpha, alpha).cdf).pvalue > 1e-3
    assert abs(np.corrcoef(ratio.numpy(), both.area().numpy())[0, 1]) < 4 / math.sqrt(images)
    share = both.ratios()[:, 0]
    for n in range(32):
        top, left, bottom, right = both.box[n].tolist()
        expected = torch.full((16, 12), 1 - ratio[n].item(), dtype=torch.float64)
        expected[top:bottom, left:right] = ratio[n]
        torch.testing.assert_close(both.weights()[n, 0].double(), expected, rtol=0, atol=1e-6)
        assert share[n].item() == pytest.approx(expected.mean().item(), abs=1e-6)


@pytest.mark.parametrize("kind", ["cutmix", "mixup"])
def test_the_concentration_of_mixup_changes_no_other_kind(generator, kind):
    first, second = (
        draw_pixel_mixing(kind, 9, (8, 8), 1.0, 0.5, mixup_alpha=alpha, generator=generator(), device="cpu")
        for alpha in (0.1, 10.0)
    )
    assert torch.equal(first.weights(), second.weights())


@pytest.mark.parametrize("kind", PIXEL_MIXINGS)
@pytest.mark.parametrize("mask", [*MASKS, None])
@pytest.mark.parametrize("num_inputs", [2, 3])
@pytest.mark.parametrize("stride", [1, 2, 4])
def test_visible_share_equals_counting_pixels(generator, kind, mask, num_inputs, stride):
    slots = drawn_slots(21, num_inputs, mask, (16 // stride, 8 // stride))
    mixing = draw_pixel_mixing(kind, len(slots), (16, 8), 1.0, 0.8, generator=generator(22), device="cpu")
    np.testing.assert_allclose(visible_share(mixing, slots).numpy(), counted_share(mixing, slots), atol=1e-5)


@pytest.mark.parametrize("kind", PIXEL_MIXINGS)
@pytest.mark.parametrize("mask", ["rectangle", "fmix", None])
@pytest.mark.parametrize("num_inputs", [2, 3])
def test_swapping_exchanges_the_images_and_nothing_else(generator, kind, mask, num_inputs):
    slots = drawn_slots(23, num_inputs, mask, (8, 8))
    mixing = draw_pixel_mixing(kind, len(slots), (16, 16), 1.0, 0.9, generator=generator(24), device="cpu")
    kept, share = keep_main_predominant(mixing, slots)
    before = counted_share(mixing, slots)
    swapped = before < 0.5
    assert swapped.any() and not swapped.all()
    np.testing.assert_allclose(share.numpy(), counted_share(kept, slots), atol=1e-5)
    np.testing.assert_allclose(share.numpy(), np.where(swapped, 1 - before, before), atol=1e-5)
    for n, is_swapped in enumerate(swapped):
        old, new = mixing.weights()[n], kept.weights()[n]
        torch.testing.assert_close(new, old.flip(0) if is_swapped else old, rtol=0, atol=0)


def test_linear_slots_see_lambda(generator):
    mixing = draw_pixel_mixing("cutmix", 12, (16, 16), 1.0, 1.0, generator=generator(25), device="cpu")
    slots = drawn_slots(26, 2, None, (16, 16))
    torch.testing.assert_close(visible_share(mixing, slots), mixing.ratios()[:, 0])


def test_a_slot_that_shows_nothing_keeps_its_main_label(generator):
    mixing = draw_pixel_mixing("cutmix", 3, (8, 8), 1.0, 1.0, generator=generator(), device="cpu")
    kept, share = keep_main_predominant(mixing, torch.zeros(3, 8, 8))
    assert share.tolist() == [1.0, 1.0, 1.0]
    assert torch.equal(kept.inside, mixing.inside) and torch.equal(kept.outside, mixing.outside)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_slot_weights_may_have_any_float_type(generator, dtype):
    slots = drawn_slots(27, 2, "rectangle", (8, 8))
    mixing = draw_pixel_mixing("mixup", len(slots), (8, 8), 1.0, 1.0, generator=generator(), device="cpu")
    assert torch.equal(visible_share(mixing, slots.to(dtype)), visible_share(mixing, slots))


def test_one_seed_gives_one_mixing(generator):
    first, again = (
        draw_pixel_mixing("cutmix", 6, (8, 8), 1.0, 0.5, generator=generator(1), device="cpu") for _ in range(2)
    )
    assert torch.equal(first.box, again.box) and torch.equal(first.outside, again.outside)


@pytest.mark.parametrize("kind", PIXEL_MIXINGS)
def test_nothing_reads_values_on_the_host(kind):
    mixing = draw_pixel_mixing(kind, 4, (8, 8), 1.0, 0.5, generator=None, device="meta")
    kept, share = keep_main_predominant(mixing, torch.empty(4, 4, 4, device="meta"))
    assert kept.weights().shape == (4, 2, 8, 8)
    assert share.device.type == "meta" and share.dtype == torch.float32


def test_bad_arguments_are_refused(generator):
    with pytest.raises(ValueError, match="unknown pixel mixing 'cutmx'.*did you mean 'cutmix'"):
        draw_pixel_mixing("cutmx", 2, (4, 4), 1.0, 0.5, generator=generator(), device="cpu")
    with pytest.raises(ValueError, match="probability must lie in 0..1, got -0.1"):
        draw_pixel_mixing("mixup", 2, (4, 4), 1.0, -0.1, generator=generator(), device="cpu")
    for alpha, reason in ((0.0, "greater than 0, got 0.0"), (math.inf, "finite, got inf")):
        with pytest.raises(ValueError, match=f"mixup_alpha must be {reason}"):
            draw_pixel_mixing("mixup", 2, (4, 4), 1.0, 0.5, mixup_alpha=alpha, generator=generator(), device="cpu")
    mixing = draw_pixel_mixing("mixup", 2, (4, 4), 1.0, 0.5, generator=generator(), device="cpu")
    with pytest.raises(ValueError, match=r"slot_weights must have the shape \[2, H', W'\].*got \(3, 4, 4\)"):
        visible_share(mixing, torch.ones(3, 4, 4))
    with pytest.raises(ValueError, match="pixel_mixing must mix 2 sources, got 3"):
        visible_share(linear_mixing(torch.full((2, 3), 1 / 3), (4, 4)), torch.ones(2, 4, 4))
