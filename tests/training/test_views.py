"""The views of a step: one pass where that is enough, else whole images, operated on, normalised, erased and blended."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mixfast_kernels import augment
from torch import Tensor

from mixfast.config import Config
from mixfast.config.layers import Layer, build
from mixfast.data import ImageSet
from mixfast.data.randomness import random_keys
from mixfast.data.regions import draw_regions
from mixfast.data.resized_crop import resized_crop
from mixfast.methods import METHODS, Moment
from mixfast.mixing import draw_pixel_mixing, keep_main_predominant
from mixfast.training import feed as feed_module
from mixfast.training import views as views_module
from mixfast.training.feed import Batch, Feed

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
MINIMAL = {
    "data": {"name": "random", "pad": 1, "flip": True},
    "model": {"name": "wrn10-1"},
    "optimizer": {"lr": 0.1},
    "schedule": {"epochs": 300},
    "training": {"batch_size": 12},
}
METHODS_WITH_MIX = {
    "single": {"name": "single"},
    "cut-mixmo": {"name": "cut-mixmo", "num_inputs": 2, "probability": 1.0},
    "linear, M = 3": {"name": "linear-mixmo", "num_inputs": 3},
}
EVERYTHING = {
    "data": {"autoaugment": "cifar", "random_erasing": 0.5},
    "msda": {"kind": "cutmix-mixup", "probability": 1.0},
}


def image_set(images: Tensor) -> ImageSet:
    channels, images = images.shape[1], images.contiguous(memory_format=torch.channels_last)
    labels = torch.arange(len(images)) % 7
    return ImageSet(images, labels, tuple("abcdefg"), MEAN[:channels], STD[:channels], "random", "train")


def random_set(channels: int = 3, size: tuple[int, int] = (8, 8), count: int = 26) -> ImageSet:
    rng = np.random.default_rng(0)
    return image_set(torch.from_numpy(rng.integers(0, 256, (count, *size, channels), np.uint8)).permute(0, 3, 1, 2))


def flat_set(count: int = 26) -> ImageSet:
    """Images of one value each, and of no other's: a view's values tell what it was blended of."""
    return image_set((9 * torch.arange(count) + 5).to(torch.uint8)[:, None, None, None].repeat(1, 1, 8, 8))


def feed_of(data: ImageSet, *sections: dict[str, Any], dtype: torch.dtype = torch.float32) -> Feed:
    config = build(Config, [Layer("minimal", MINIMAL), *(Layer("test", section) for section in sections)])
    method = METHODS[config.method.name].from_settings(config.method.model_dump())
    return Feed(data, method, config, data.image_shape, dtype)


def batch_of(feed: Feed, step: int = 0, epoch: int = 100) -> Batch:
    return feed.batch(feed.plan(epoch), step, Moment(epoch, 300))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("views", ["independent", "shared"])
@pytest.mark.parametrize("kind", ["none", "cutmix", "mixup", "cutmix-mixup"])
@pytest.mark.parametrize("method", METHODS_WITH_MIX)
def test_crop_flip_blend_and_normalisation_are_one_call(method, kind, views, dtype, monkeypatch) -> None:
    """Without operations on whole images, a batch is one ``augment`` of these draws in this order, to the bit."""
    data = {"data": {"views": views, "repetition": 2}}
    msda = {} if kind == "none" else {"alpha": 0.7, "probability": 0.6}
    msda |= {"mixup_alpha": 0.4} if kind == "cutmix-mixup" else {}
    feed = feed_of(
        random_set(), {"method": METHODS_WITH_MIX[method], "msda": {"kind": kind, **msda}}, data, dtype=dtype
    )
    calls = []
    monkeypatch.setattr(views_module, "augment", lambda *a, **k: calls.append(k) or augment(*a, **k))
    batch = batch_of(feed, step=1)
    assert len(calls) == 1

    plan, moment = feed.plan(100), Moment(100, 300)
    slots = plan.batch(1, views)
    generator = torch.Generator()
    generator.manual_seed(int(random_keys((1,), seed=0, stream=2**62 + 99 * len(plan) + 1)))
    mixing = feed.method.draw(12, feed.grid, moment, generator=generator, device="cpu")
    index, pixel_mixing = slots.images[:, None], None
    if kind != "none":
        partner = torch.randint(26, (len(slots.images),), generator=generator)
        index = torch.stack((slots.images, partner), 1)
        pixel_mixing = draw_pixel_mixing(
            kind, len(index), (8, 8), 0.7, 0.6, mixup_alpha=0.4, generator=generator, device="cpu"
        )
        if method != "single" and views == "independent":
            pixel_mixing, _ = keep_main_predominant(pixel_mixing, mixing.weights().flatten(0, 1))
    crop = torch.randint(3, (*index.shape, 2), generator=generator)
    flip = torch.rand(index.shape, generator=generator) < 0.5
    expected = augment(
        feed.data.images,
        index=index,
        crop=crop,
        flip=flip,
        pad=1,
        mixing=pixel_mixing,
        mean=MEAN,
        std=STD,
        dtype=dtype,
    )
    assert torch.equal(batch.images, expected)


@pytest.mark.parametrize("kind", ["none", "cutmix", "mixup", "cutmix-mixup"])
@pytest.mark.parametrize("method", METHODS_WITH_MIX)
def test_whole_images_are_blended_as_in_one_call(method, kind, monkeypatch) -> None:
    """Take the operations away, and nothing else has changed: AutoAugment sees crops, erasing what is normalised."""
    mix = {"method": METHODS_WITH_MIX[method], "msda": {"kind": kind}}
    plain = batch_of(feed_of(random_set(), mix))
    feed = feed_of(random_set(), mix, {"data": {"autoaugment": "cifar", "random_erasing": 0.5}})
    seen = []

    def without_operations(pixels: Tensor, *, host_rng: np.random.Generator, kept: None) -> Tensor:
        seen.append(pixels)
        return pixels

    def without_erasing(images: Tensor, probability: float, **generators: object) -> Tensor:
        assert probability == 0.5
        seen.append(images)
        return images

    monkeypatch.setattr(feed.make_views, "operations", without_operations)
    monkeypatch.setattr(views_module, "random_erasing", without_erasing)
    batch = batch_of(feed)
    torch.testing.assert_close(batch.images, plain.images, rtol=0, atol=3e-6)
    for name in ("index", "target", "weight", "other", "share"):
        left, right = getattr(batch, name), getattr(plain, name)
        assert left is right is None or torch.equal(left, right)
    pixels, normalised = seen
    assert pixels.dtype == torch.uint8
    assert len(pixels) == len(batch.images) * (1 if kind == "none" else 2)
    expected = (pixels.double() / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    torch.testing.assert_close(normalised.double(), expected, rtol=0, atol=3e-6)


def test_augmix_is_erased_too(monkeypatch) -> None:
    monkeypatch.setattr(views_module, "random_erasing", lambda images, *_, **__: images + 1000)
    mix = {"msda": {"kind": "cutmix"}, "data": {"augmix": True}}
    plain = batch_of(feed_of(random_set(), mix)).images
    erased = batch_of(feed_of(random_set(), mix, {"data": {"random_erasing": 0.5}})).images
    torch.testing.assert_close(erased, plain + 1000, rtol=0, atol=1e-3)


def test_noise_is_blended_with_the_partner() -> None:
    """Erasing comes before MixUp: what is left of a rectangle of noise is as wide as the main image's weight."""
    one_value = image_set(torch.full((26, 3, 8, 8), 128, dtype=torch.uint8))
    mixup = {"msda": {"kind": "mixup", "probability": 1.0}}
    plain, erased = (
        batch_of(feed_of(one_value, mixup, {"data": {"pad": 0, "random_erasing": probability}}))
        for probability in (0.0, 1.0)
    )
    num_values = [len(torch.unique((image - plain.images[0, :, :1, :1]).abs() > 1e-5)) for image in erased.images]
    assert num_values == [2] * 12
    # Standard normal noise of both sources, and where only one is erased the other's weight is on a constant.
    changes = (erased.images - plain.images)[(erased.images - plain.images).abs() > 1e-5]
    assert 0.3 < changes.std() < 0.85  # 1 if nothing were blended


@pytest.mark.parametrize("whole_images", [False, True])
@pytest.mark.parametrize("views", ["independent", "shared"])
@pytest.mark.parametrize("method", METHODS_WITH_MIX)
def test_cutmix_and_mixup_at_once_share_labels_as_pixels_are_shared(method, views, whole_images, monkeypatch) -> None:
    """Of flat images a and b a view has two values; the share is (what a slot sees of the view - b) / (a - b)."""
    data = {"pad": 0, "flip": False, "views": views, "repetition": 2, "random_erasing": 0.5 if whole_images else 0.0}
    monkeypatch.setattr(views_module, "random_erasing", lambda images, *_, **__: images)
    mix = {"method": METHODS_WITH_MIX[method], "msda": {"kind": "cutmix-mixup", "probability": 1.0}}
    feed = feed_of(flat_set(), mix, {"data": data})
    values = (feed.data.images[:, 0, 0, 0].double() / 255 - MEAN[0]) / STD[0]
    partners = []
    blend = feed.make_views
    monkeypatch.setattr(
        feed, "make_views", lambda images, index, *rest: partners.append(index[:, 1]) or blend(images, index, *rest)
    )
    shares, num_values = [], []
    for step in range(2):
        batch, plan = batch_of(feed, step), feed.plan(100)
        main = plan.images[step][plan.slots[step]]
        slots = batch.mixing.weights().double()
        for b in range(12):
            for m in range(slots.shape[1]):
                view = int(batch.index[b, m])
                first, second = values[main[b, m]], values[partners[step][view]]
                if first == second or slots[b, m].sum() == 0:
                    continue
                seen = (slots[b, m] * batch.images[view, 0].double()).sum() / slots[b, m].sum()
                assert batch.share[b, m].item() == pytest.approx(((seen - second) / (first - second)).item(), abs=1e-4)
                assert batch.other[b, m] == feed.data.labels[partners[step][view]]
                shares.append(batch.share[b, m].item())
                num_values.append(len(torch.unique(batch.images[view].mul(1e4).round())))
    assert max(num_values) == 2 and num_values.count(2) > len(shares) / 2
    is_swapped = method != "single" and views == "independent"
    assert (min(shares) >= 0.5 - 1e-6) == is_swapped
    assert sum(0.01 < share < 0.99 for share in shares) > len(shares) / 2


@pytest.mark.parametrize("views", ["independent", "shared"])
@pytest.mark.parametrize("kind", ["none", "cutmix"])
@pytest.mark.parametrize("method", METHODS_WITH_MIX)
def test_random_resized_crop_is_drawn_after_the_partners(method, kind, views) -> None:
    """A batch is the regions of these draws in this order, flipped, blended and normalised; larger images are no matter."""
    data = {"data": {"views": views, "repetition": 2, "pad": 0, "crop_area": (0.1, 0.9)}}
    images = replace(random_set(size=(13, 13)), view_size=8)
    feed = feed_of(images, {"method": METHODS_WITH_MIX[method], "msda": {"kind": kind}}, data)
    batch, plan = batch_of(feed, step=1), feed.plan(100)

    slots = plan.batch(1, views)
    generator = torch.Generator()
    generator.manual_seed(int(random_keys((1,), seed=0, stream=2**62 + 99 * len(plan) + 1)))
    mixing = feed.method.draw(12, feed.grid, Moment(100, 300), generator=generator, device="cpu")
    index, pixel_mixing = slots.images[:, None], None
    if kind != "none":
        index = torch.stack((slots.images, torch.randint(26, (len(slots.images),), generator=generator)), 1)
    regions = draw_regions(index.numel(), (0.1, 0.9), (8, 8), generator=generator)
    if kind != "none":
        msda = feed.config.msda
        pixel_mixing = draw_pixel_mixing(
            kind, len(index), (8, 8), msda.alpha, msda.probability, generator=generator, device="cpu"
        )
        if method != "single" and views == "independent":
            pixel_mixing, _ = keep_main_predominant(pixel_mixing, mixing.weights().flatten(0, 1))
    flip = torch.rand(index.shape, generator=generator) < 0.5
    expected = augment(
        resized_crop(images.images, index.flatten(), regions, (8, 8)),
        index=torch.arange(index.numel()).view(index.shape),
        flip=flip,
        mixing=pixel_mixing,
        mean=MEAN,
        std=STD,
    )
    assert batch.images.shape[2:] == (8, 8)
    assert torch.equal(batch.images, expected)


@settings(max_examples=40, deadline=None)
@given(
    cut=st.sampled_from([{}, {"pad": 0, "crop_area": (0.08, 1.0)}]),
    autoaugment=st.sampled_from(["none", "cifar", "imagenet", "randaugment"]),
    augmix=st.booleans(),
    erasing=st.sampled_from([0.0, 0.3, 1.0]),
    kind=st.sampled_from(["none", "cutmix", "mixup", "cutmix-mixup"]),
    method=st.sampled_from(sorted(METHODS_WITH_MIX)),
    views=st.sampled_from(["independent", "shared"]),
    channels=st.sampled_from([1, 3]),
    size=st.sampled_from([(8, 8), (9, 14), (16, 10)]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
)
def test_any_combination_gives_finite_views_that_repeat(
    cut, autoaugment, augmix, erasing, kind, method, views, channels, size, dtype
) -> None:
    data = {"augmix": augmix and autoaugment == "none", "random_erasing": erasing, **cut}
    data |= {"randaugment": 2} if autoaugment == "randaugment" else {"autoaugment": autoaugment}
    sections = {"method": METHODS_WITH_MIX[method], "msda": {"kind": kind}, "data": {**data, "views": views}}
    repetition = {"data": {"repetition": 2}}
    first, again = (
        batch_of(feed_of(random_set(channels, size), sections, repetition, dtype=dtype)).images for _ in range(2)
    )
    assert first.dtype == dtype and first.shape[1:] == (channels, *size)
    assert first.is_contiguous(memory_format=torch.channels_last)
    assert torch.isfinite(first).all()
    assert torch.equal(first, again)


@pytest.mark.parametrize(
    "data",
    [
        {"autoaugment": "cifar"},
        {"autoaugment": "imagenet"},
        {"randaugment": 3},
        {"random_erasing": 0.5},
        {"crop_area": (0.08, 1.0)},
    ],
)
def test_another_step_seed_or_epoch_draws_others(data) -> None:
    """On one image, so that nothing but operations, erasing and regions can differ."""
    one = image_set(random_set(size=(16, 16)).images[:1].repeat(26, 1, 1, 1))
    still = {"data": {"pad": 0, "flip": False, **data}}
    feed = feed_of(one, still)
    first = batch_of(feed).images
    others = [batch_of(feed, step=1), batch_of(feed, epoch=101), batch_of(feed_of(one, still, {"seed": 1}))]
    assert all(not torch.equal(first, other.images) for other in others)
    assert len(torch.unique(first, dim=0)) > 3
    assert torch.equal(batch_of(feed).images, first)


def test_manifold_mixup_draws_apart_from_the_images() -> None:
    """Which batches are mixed, and how deep, must not decide which operations its images get."""
    assert feed_module.HOST_STREAM != views_module.IMAGE_STREAM
    manifold = {"msda": {"kind": "manifold-mixup", "probability": 1.0}}
    plain, both = (
        batch_of(feed_of(random_set(), manifold, {"data": {"autoaugment": policy}})) for policy in ("none", "cifar")
    )
    assert plain.hidden_mix.depth == both.hidden_mix.depth
    assert torch.equal(plain.hidden_mix.partner, both.hidden_mix.partner)
    assert not torch.equal(plain.images, both.images)
