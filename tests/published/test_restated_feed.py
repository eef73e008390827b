"""`Feed.batch` against brute force: what every view shows, and that labels, shares and weights belong to it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from pairs import masks_of, restated_weights
from restatement import is_rectangle, legal_boxes, visible_share
from view_search import MEAN, STD, ViewSearch, random_image_set

from mixfast.config import Config
from mixfast.config.layers import Layer, build
from mixfast.methods import METHODS, Method, Moment
from mixfast.training import views as views_module
from mixfast.training.feed import Batch, Feed

IMAGES, SIDE, STEPS = 26, 8, 2
MIDDLE = Moment(100, 300)
UNMIXED = 1 - 1e-5  # shares above are 1, as well as float32 sums know

MINIMAL = {
    "data": {"name": "random", "pad": 1, "flip": True},
    "model": {"name": "wrn10-1"},
    "optimizer": {"lr": 0.1},
    "schedule": {"epochs": 300},
    "training": {"batch_size": 12},
}
CUT = {"method": {"name": "cut-mixmo", "num_inputs": 2}}
CUT_ALWAYS = {"method": {"name": "cut-mixmo", "num_inputs": 2, "probability": 1.0}}
LINEAR = {"method": {"name": "linear-mixmo", "num_inputs": 2}}
TWICE = {"data": {"repetition": 2}}
CUTMIX = {"msda": {"kind": "cutmix"}}
MIXUP = {"msda": {"kind": "mixup"}}


def config_of(*sections: dict[str, Any]) -> Config:
    return build(Config, [Layer("minimal", MINIMAL), *(Layer("test", section) for section in sections)])


def method_of(config: Config) -> Method:
    return METHODS[config.method.name].from_settings(config.method.model_dump())


def feed_of(config: Config, stride: int = 1) -> Feed:
    data = random_image_set(IMAGES, SIDE)
    return Feed(data, method_of(config), config, (SIDE // stride, SIDE // stride))


def drawn(feed: Feed, moment: Moment = MIDDLE) -> list[tuple[Batch, np.ndarray]]:
    """The first batches of an epoch, each with the images of its slots ``[B, M]``, straight from the plan's fields."""
    plan = feed.plan(moment.epoch)
    batches = []
    for step in range(STEPS):
        images = plan.images[step][plan.slots[step]].numpy()
        batches.append((feed.batch(plan, step, moment), images))
    return batches


def slots_of(batch: Batch) -> list[tuple[int, int]]:
    return [(b, m) for b in range(batch.index.shape[0]) for m in range(batch.index.shape[1])]


def shown_pixels(batch: Batch, b: int, m: int, masks: list) -> np.ndarray:
    """The weight of every pixel of a slot, on the pixel grid."""
    mask = masks[b][m].numpy()
    return np.kron(mask, np.ones((SIDE // mask.shape[0], SIDE // mask.shape[1])))


METHOD_CASES = {
    "single": [{}],
    "single, b = 2": [TWICE],
    "mimo": [{"method": {"name": "mimo", "num_inputs": 2}}, TWICE],
    "mimo, M = 3": [{"method": {"name": "mimo", "num_inputs": 3}}, TWICE],
    "linear": [LINEAR, TWICE],
    "linear, M = 3": [{"method": {"name": "linear-mixmo", "num_inputs": 3}}],
    "cut": [CUT, {"data": {"repetition": 4}}],
    "cut, M = 3": [{"method": {"name": "cut-mixmo", "num_inputs": 3}}, TWICE],
    "cut, r = 1": [{"method": {"name": "cut-mixmo", "num_inputs": 2, "root": 1.0}}],
    "cut, cowmask": [{"method": {"name": "cut-mixmo", "num_inputs": 2, "mask": "cowmask"}}],
    "mixshare": [
        {"method": {"name": "mixshare", "num_inputs": 2, "probability": 1.0, "root": 1.0}},
        {"data": {"repetition": 2, "input_repetition": 0.25}},
    ],
    "pad 2": [CUT, {"data": {"pad": 2}}],
    "neither crop nor flip": [CUT, {"data": {"pad": 0, "flip": False}}],
}


def with_views(names: Iterable[str]) -> list[tuple[str, str]]:
    """Both kinds of views; an image that stands in a batch only once has one view either way."""
    both = [(name, views) for name in names for views in ("independent", "shared")]
    return [pair for pair in both if pair != ("single", "shared")]


@pytest.mark.parametrize(("name", "views"), with_views(METHOD_CASES))
def test_views_labels_and_weights(name, views):
    config = config_of(*METHOD_CASES[name], {"data": {"views": views}})
    feed = feed_of(config)
    search = ViewSearch(feed.data, config.data.pad, config.data.flip)
    for batch, images in drawn(feed):
        assert batch.images.dtype == torch.float32
        found = [search.images_like(view) for view in batch.images]
        for b, m in slots_of(batch):
            assert found[batch.index[b, m]] == {images[b, m]}
            assert batch.target[b, m] == feed.data.labels[images[b, m]]
        weights = restated_weights(config.method.name, config.method.root, False, masks_of(batch.mixing))
        np.testing.assert_allclose(batch.weight.numpy(), weights, rtol=1e-5, atol=1e-6)
        assert batch.other is batch.share is batch.hidden_mix is None


@pytest.mark.parametrize("views", ["independent", "shared"])
def test_repetition(views):
    """Every image of a batch stands b times in each slot, with one view in all or one of its own in each."""
    config = config_of(CUT, {"data": {"repetition": 4, "views": views}})
    for batch, images in drawn(feed_of(config)):
        distinct = 12 // 4
        for m in range(2):
            _, counts = np.unique(images[:, m], return_counts=True)
            assert counts.tolist() == [4] * distinct
        assert len(batch.images) == (distinct if views == "shared" else 24)
        assert len(batch.index.unique()) == len(batch.images)
        if views == "independent":
            assert len(torch.unique(batch.images, dim=0)) > 2 * distinct  # of 18 possible views each, 8 drawn


def test_input_repetition_pairs_the_first_samples_with_themselves():
    config = config_of(CUT, {"data": {"repetition": 2, "input_repetition": 0.3}})
    pairs_elsewhere = 0
    for _, images in drawn(feed_of(config)):
        assert (images[:3, 0] == images[:3, 1]).all()  # floor(0.3 * 12)
        pairs_elsewhere += (images[3:, 0] == images[3:, 1]).sum()
        for m in range(2):
            assert (np.unique(images[:, m], return_counts=True)[1] == 2).all()
    assert pairs_elsewhere < 9


CUTMIX_CASES = {
    "single": ([CUTMIX], 1),
    "linear": ([LINEAR, CUTMIX, TWICE], 1),
    "cut": ([CUT_ALWAYS, CUTMIX, TWICE], 1),
    "cut, stem of stride 2": ([CUT_ALWAYS, CUTMIX, TWICE], 2),
    "cut, M = 3": ([{"method": {"name": "cut-mixmo", "num_inputs": 3, "probability": 1.0}}, CUTMIX, TWICE], 1),
    "mimo": ([{"method": {"name": "mimo", "num_inputs": 2}}, CUTMIX], 1),
    "fmix": ([{"method": {"name": "cut-mixmo", "num_inputs": 2, "probability": 1.0, "mask": "fmix"}}, CUTMIX], 1),
}


@pytest.mark.parametrize("pad", [0, 1])
@pytest.mark.parametrize(("name", "views"), with_views(CUTMIX_CASES))
def test_cutmix(name, views, pad):
    """The partner's pixels are the partner's, and the share is what a count of visible pixels says (A.1.3.1)."""
    sections, stride = CUTMIX_CASES[name]
    config = config_of(*sections, {"data": {"views": views, "pad": pad}})
    feed = feed_of(config, stride)
    search = ViewSearch(feed.data, pad, flip=True)
    may_be_minor = name == "single" or views == "shared"  # plain networks are not swapped, shared pixels cannot be
    num_mixed = num_minor = 0
    for batch, images in drawn(feed):
        masks = masks_of(batch.mixing)
        mains = {int(view): image for view, image in zip(batch.index.flatten(), images.flatten(), strict=True)}
        origins = [search.cut_origins(view, mains[v]) for v, view in enumerate(batch.images)]
        for b, m in slots_of(batch):
            assert batch.target[b, m] == feed.data.labels[images[b, m]]
            share, shown = batch.share[b, m].item(), shown_pixels(batch, b, m, masks)
            if shown.sum() == 0:
                assert share == 1 and batch.weight[b, m] == 0
                continue
            fitting = []
            for origin in origins[batch.index[b, m]]:
                low, high = origin.share_bounds(shown)
                if not origin.either.any():
                    assert low == high == pytest.approx(visible_share(origin.main, shown), rel=1e-12)
                label_fits = origin.partner_label in (None, batch.other[b, m].item())
                if label_fits and low - 1e-5 <= share <= high + 1e-5:
                    fitting.append(origin)
            assert fitting, (b, m)
            if name == "single":  # the main image is the one in the box
                assert any(is_rectangle(origin.main, origin.either) for origin in fitting)
            assert share >= 0.5 - 1e-6 or may_be_minor
            num_mixed += share < UNMIXED
            num_minor += share < 0.5
    assert num_mixed > 3
    assert not may_be_minor or num_minor > 0


@pytest.mark.parametrize(
    "sections", [[MIXUP], [LINEAR, MIXUP, TWICE], [CUT_ALWAYS, MIXUP]], ids=["single", "linear", "cut"]
)
def test_mixup(sections):
    """A view is share * main + (1 - share) * partner; MixMo's main image predominates."""
    config = config_of(*sections)
    feed = feed_of(config)
    search = ViewSearch(feed.data, pad=1, flip=True)
    shares = []
    for batch, images in drawn(feed):
        for b, m in slots_of(batch):
            if batch.weight[b, m] == 0:
                continue
            share = batch.share[b, m].item()
            assert batch.target[b, m] == feed.data.labels[images[b, m]]
            partners = search.blends(batch.images[batch.index[b, m]], images[b, m], share)
            assert share > UNMIXED or batch.other[b, m] in feed.data.labels[list(partners)]
            assert partners
            shares.append(share)
    mixed = np.array([share for share in shares if share < UNMIXED])
    assert 0.25 < len(mixed) / len(shares) < 0.75  # each with probability 0.5
    assert (mixed.min() < 0.5) == (config.method.name == "single")


def test_cutmix_after_augmix(monkeypatch):
    """AugMix works on whole images before they are mixed: take its operations away, and nothing else has changed."""

    def without_operations(pixels, *, host_rng, generator, mean, std, kept):
        values = pixels.double() / 255
        return (values - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]

    monkeypatch.setattr(views_module, "augmix", without_operations)
    plain = config_of(CUT_ALWAYS, CUTMIX, TWICE)
    with_augmix = config_of(CUT_ALWAYS, CUTMIX, TWICE, {"data": {"augmix": True}})
    for (batch, _), (expected, _) in zip(drawn(feed_of(with_augmix)), drawn(feed_of(plain)), strict=True):
        torch.testing.assert_close(batch.images, expected.images, rtol=0, atol=2e-6)
        for name in ("index", "target", "weight", "other", "share"):
            assert torch.equal(getattr(batch, name), getattr(expected, name))


def test_normalisation():
    data = random_image_set(IMAGES, SIDE)
    config = config_of({"data": {"pad": 0, "flip": False}})
    feed = Feed(data, method_of(config), config, (SIDE, SIDE), torch.float64)
    for batch, images in drawn(feed):
        for b in range(12):
            pixels = data.images[images[b, 0]].double().numpy()
            for c in range(3):
                np.testing.assert_allclose(batch.images[b, c], (pixels[c] / 255 - MEAN[c]) / STD[c], atol=1e-12)


@pytest.mark.parametrize("stride", [1, 2])
def test_the_mix_of_a_batch(stride):
    """Algorithm A.6: one coin a batch for patch or linear, one for the outside flip, kappa and box for each sample."""
    feed = feed_of(config_of(CUT), stride)
    side = SIDE // stride
    legal = legal_boxes(side)
    kinds = []
    for epoch in range(1, 31):
        for batch, _ in drawn(feed, Moment(epoch, 300)):
            mixing = batch.mixing
            np.testing.assert_allclose(mixing.outside.sum(1), 1, rtol=1e-6)
            assert {tuple(box) for box in mixing.box.tolist()} <= legal
            if (mixing.box == 0).all():
                kinds.append("linear")
                assert len(mixing.outside[:, 0].unique()) == 12
            else:
                in_box = mixing.inside[0].tolist()
                kinds.append(f"input {in_box.index(1)} in the box")
                assert sorted(in_box) == [0, 1]
                assert (mixing.inside == mixing.inside[0]).all() and (mixing.outside == 1 - mixing.inside).all()
                assert len(mixing.box.unique(dim=0)) > 4
    counts = {kind: kinds.count(kind) for kind in set(kinds)}
    assert set(counts) == {"linear", "input 0 in the box", "input 1 in the box"}
    assert 18 <= counts["linear"] <= 42 and min(counts.values()) >= 6  # of 60, expected 30, 15, 15


HEADS = {"encoders": "shared", "name": "cut-mixmo", "num_inputs": 2}


def base_and_permuted(heads: str) -> list[tuple[Batch, np.ndarray, np.ndarray, np.ndarray]]:
    """Batches with heads in some order, with the labels, weights and ratios in the order of the inputs."""
    root = {} if heads == "shared" else {"root": 3.0}
    config = config_of({"method": {**HEADS, "heads": heads, **root}}, CUTMIX, TWICE)
    feed = feed_of(config)
    rows = []
    for batch, images in drawn(feed):
        masks = masks_of(batch.mixing)
        weights = restated_weights("cut-mixmo", 3.0, heads == "shared", masks)
        ratios = np.array([[float(mask.mean()) for mask in of_sample] for of_sample in masks])
        rows.append((batch, feed.data.labels.numpy()[images], np.array(weights), ratios))
    return rows


def test_one_head_learns_labels_in_proportion():
    for batch, labels, _, ratios in base_and_permuted("shared"):
        assert (batch.target.numpy() == labels).all()
        np.testing.assert_allclose(batch.weight.numpy(), ratios, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(batch.weight.sum(1), 1, rtol=1e-6)


def test_heads_by_ratio_learn_the_larger_input_first():
    for batch, labels, weights, ratios in base_and_permuted("by-ratio"):
        for b in range(12):
            first = 0 if ratios[b, 0] >= ratios[b, 1] - 1e-7 else 1
            order = [first, 1 - first]
            assert batch.target[b].tolist() == labels[b, order].tolist()
            np.testing.assert_allclose(batch.weight[b], weights[b, order], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("heads", ["random", "by-ratio"])
def test_labels_weights_and_shares_change_order_together(heads):
    """Everything a head is given is one input's: as the same draw gives it without an order, in one of two orders."""
    flipped = []
    for (batch, *_), (plain, *_) in zip(base_and_permuted(heads), base_and_permuted("per-input"), strict=True):
        assert torch.equal(batch.images, plain.images)
        for b in range(12):
            names = ("target", "weight", "other", "share")
            kept, swapped = (
                all(getattr(batch, name)[b].tolist() == getattr(plain, name)[b].tolist()[::step] for name in names)
                for step in (1, -1)
            )
            assert kept or swapped
            flipped += [swapped] if kept != swapped else []
    assert len(flipped) > 20 and 5 < sum(flipped) < len(flipped) - 5


def test_manifold_mixup():
    """One depth and one ratio a batch, partners inside the batch, label shares as the features are mixed."""
    config = config_of({"msda": {"kind": "manifold-mixup", "alpha": 2.0, "probability": 1.0}})
    feed = feed_of(config)
    search = ViewSearch(feed.data, pad=1, flip=True)
    depths, shares = set(), set()
    for epoch in range(1, 9):
        for batch, images in drawn(feed, Moment(epoch, 300)):
            mix = batch.hidden_mix
            assert sorted(mix.partner.tolist()) == list(range(12))
            assert (mix.share == mix.share[0]).all() and 0 < mix.share[0] < 1
            assert torch.equal(batch.share, mix.share[:, None])
            for b in range(12):
                assert batch.target[b, 0] == feed.data.labels[images[b, 0]]
                assert batch.other[b, 0] == feed.data.labels[images[mix.partner[b], 0]]
            depths.add(mix.depth)
            shares.add(mix.share[0].item())
            assert search.images_like(batch.images[0]) == {images[0, 0]}  # pixels stay as they are
    assert depths == {0, 1, 2}
    assert len(shares) == 16


def test_manifold_mixup_of_some_batches():
    config = config_of({"msda": {"kind": "manifold-mixup", "alpha": 2.0, "probability": 0.5}})
    feed = feed_of(config)
    batches = [batch for epoch in range(1, 31) for batch, _ in drawn(feed, Moment(epoch, 300))]
    assert 15 < sum(batch.hidden_mix is not None for batch in batches) < 45
    for batch in batches:
        assert (batch.other is not None) == (batch.share is not None) == (batch.hidden_mix is not None)


def flat(batch: Batch) -> dict[str, torch.Tensor]:
    parts = {**vars(batch), **{f"mixing.{name}": value for name, value in vars(batch.mixing).items()}}
    parts |= {} if batch.hidden_mix is None else vars(batch.hidden_mix)
    return {name: value for name, value in parts.items() if isinstance(value, torch.Tensor)}


@pytest.mark.parametrize(
    "sections",
    [
        [CUT, CUTMIX, TWICE],
        [{"method": {**HEADS, "heads": "random"}}, MIXUP],
        [{"msda": {"kind": "manifold-mixup", "probability": 1.0}}, {"data": {"augmix": True}}],
        [CUT, {"msda": {"kind": "cutmix-mixup"}}, {"data": {"autoaugment": "cifar", "random_erasing": 0.5}}],
    ],
    ids=["cut + cutmix", "random heads + mixup", "manifold mixup + augmix", "augmentations of vision transformers"],
)
def test_a_batch_is_a_function_of_seed_epoch_and_step(sections):
    config = config_of(*sections)
    feed = feed_of(config)
    first = [flat(batch) for batch, _ in drawn(feed)]
    torch.rand(3)  # what others draw doesn't matter, nor what was drawn before
    again = [flat(feed.batch(feed.plan(MIDDLE.epoch), step, MIDDLE)) for step in reversed(range(STEPS))][::-1]
    elsewhere = [flat(batch) for batch, _ in drawn(feed_of(config))]
    for same in (again, elsewhere):
        for left, right in zip(first, same, strict=True):
            assert set(left) == set(right)
            for name in left:
                assert torch.equal(left[name], right[name]), name
    others = [
        first[1],
        flat(drawn(feed, dataclasses.replace(MIDDLE, epoch=101))[0][0]),
        flat(drawn(feed_of(config.replace(seed=1)))[0][0]),
    ]
    for other in others:
        for name in ("images", "target"):
            assert not torch.equal(first[0][name], other[name]), name
    shares = [each["share"] for each in (first[0], *others)]
    assert all(not torch.equal(left, right) for k, left in enumerate(shares) for right in shares[:k])
