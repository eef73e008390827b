"""A process's part of a batch is some rows of the batch that one process alone draws, and the parts make it up."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mixfast_kernels import Mixing
from test_views import METHODS_WITH_MIX, random_set

from mixfast.config import Config
from mixfast.config.layers import Layer, build
from mixfast.data import plan_epoch
from mixfast.methods import METHODS, Moment
from mixfast.training.feed import Batch, Feed
from mixfast.training.ranks import ONE_PROCESS, Ranks

MINIMAL = {
    "data": {"name": "random", "pad": 1, "flip": True, "repetition": 2},
    "model": {"name": "wrn10-1"},
    "optimizer": {"lr": 0.1},
    "schedule": {"epochs": 300},
    "training": {"batch_size": 24},
}
RANDOM_HEADS = {"name": "cut-mixmo", "num_inputs": 2, "heads": "random"}


def batch_of(ranks: Ranks, *sections: dict, step: int = 1, size: tuple[int, int] = (8, 8)) -> Batch:
    config = build(Config, [Layer("minimal", MINIMAL), *(Layer("test", section) for section in sections)])
    method = METHODS[config.method.name].from_settings(config.method.model_dump())
    data = random_set(size=size, count=30)
    feed = Feed(data, method, config, size, ranks=ranks)
    return feed.batch(feed.plan(100), step, Moment(100, 300))


def parts_of(count: int, *sections: dict, **options) -> list[Batch]:
    return [batch_of(Ranks(rank, count), *sections, **options) for rank in range(count)]


def shown(batch: Batch) -> torch.Tensor:
    """What each sample's slots show, ``[B, M, c, H, W]``."""
    return batch.images[batch.index]


def assert_rows_of(part: Batch, whole: Batch) -> None:
    rows = part.rows
    torch.testing.assert_close(shown(part), shown(whole)[rows], rtol=0, atol=0)
    for name in ("target", "weight", "other", "share"):
        own, all_of_them = getattr(part, name), getattr(whole, name)
        assert (own is None) == (all_of_them is None), name
        assert own is None or torch.equal(own, all_of_them[rows]), name
    assert torch.equal(part.mixing.weights(), whole.mixing.weights()[rows])


@settings(max_examples=60, deadline=None)
@given(
    count=st.sampled_from([1, 2, 3, 4, 6, 12]),
    groups=st.sampled_from([1, 2, 12]),
    views=st.sampled_from(["independent", "shared"]),
    kind=st.sampled_from(["none", "cutmix", "mixup", "cutmix-mixup"]),
    method=st.sampled_from([*METHODS_WITH_MIX.values(), RANDOM_HEADS]),
    pixels=st.sampled_from(["none", "autoaugment", "augmix"]),
    erasing=st.sampled_from([0.0, 0.5]),
)
def test_every_draw_of_a_part_is_the_whole_batchs(count, groups, views, kind, method, pixels, erasing) -> None:
    data = {"views": views, "random_erasing": erasing, "groups": groups if method["name"] != "single" else 1}
    data |= {"none": {}, "autoaugment": {"autoaugment": "cifar"}, "augmix": {"augmix": True}}[pixels]
    sections = {"method": method, "msda": {"kind": kind}, "data": data}
    whole, parts = batch_of(ONE_PROCESS, sections), parts_of(count, sections)
    if count == 1:
        assert parts[0].rows is None and torch.equal(shown(parts[0]), shown(whole))
        return
    for part in parts:
        assert_rows_of(part, whole)
    assert torch.cat([part.rows for part in parts]).sort().values.tolist() == list(range(24))


@pytest.mark.parametrize("mask", ["patchup", "fmix", "cowmask"])
def test_bitmaps_are_the_whole_batchs(mask) -> None:
    sections = {"method": {"name": "cut-mixmo", "num_inputs": 2, "mask": mask, "probability": 1.0}}
    whole = batch_of(ONE_PROCESS, sections)
    for part in parts_of(4, sections):
        assert_rows_of(part, whole)


@pytest.mark.parametrize("count", [2, 4])
def test_manifold_mixup_finds_its_partners_in_the_part(count) -> None:
    sections = {"msda": {"kind": "manifold-mixup", "probability": 1.0}, "data": {"groups": 4}}
    whole, hidden = batch_of(ONE_PROCESS, sections), torch.randn(24, 3, 2, 2)
    mixed = whole.hidden_mix.apply(hidden)
    for part in parts_of(count, sections):
        assert_rows_of(part, whole)
        assert part.hidden_mix.depth == whole.hidden_mix.depth
        assert torch.equal(part.hidden_mix.apply(hidden[part.rows]), mixed[part.rows])


@settings(max_examples=100, deadline=None)
@given(
    per_process=st.integers(1, 4),
    count=st.sampled_from([1, 2, 3, 4, 5, 8]),
    repetition=st.integers(1, 4),
    num_inputs=st.integers(1, 3),
    input_repetition=st.sampled_from([0.0, 0.3, 1.0]),
    spare=st.integers(0, 5),
    steps=st.integers(1, 3),
    views=st.sampled_from(["independent", "shared"]),
    is_grouped=st.booleans(),
    seed=st.integers(0, 9),
)
def test_over_an_epoch_all_processes_show_each_image_b_times_in_each_slot(
    per_process, count, repetition, num_inputs, input_repetition, spare, steps, views, is_grouped, seed
) -> None:
    distinct = per_process * count
    plan = plan_epoch(
        num_images := steps * distinct + min(spare, distinct - 1),
        batch_size=distinct * repetition,
        num_inputs=num_inputs,
        repetition=repetition,
        input_repetition=input_repetition,
        groups=count if is_grouped else 1,
        seed=seed,
        epoch=3,
    )
    assert len(plan) == steps
    counts = [Counter() for _ in range(num_inputs)]
    for step in range(steps):
        of_slot_0, of_any_slot = [], []
        batch = plan.batch(step, views)
        for rank in range(count):
            part = plan.part(step, views, rank, count)
            images = batch.images[part.views.device][part.slots]  # [B', M]
            assert len(images) == distinct * repetition // count
            for slot in range(num_inputs):
                counts[slot].update(images[:, slot].tolist())
            of_slot_0.append(set(images[:, 0].tolist()))
            of_any_slot.append(set(images.flatten().tolist()))
        # Repetition stays in a process: for slot 0 always, for all slots in groups.
        kept_apart = of_any_slot if is_grouped or num_inputs == 1 else of_slot_0
        assert sum(map(len, kept_apart)) == len(set().union(*kept_apart)) == distinct
        assert all(len(images) == per_process for images in kept_apart)
    assert all(set(counter.values()) == {repetition} and len(counter) == steps * distinct for counter in counts)
    assert max(counts[0]) < num_images


def test_shared_views_of_other_processes_are_made_only_without_groups() -> None:
    method = {"method": {"name": "mimo", "num_inputs": 2}}
    made = [
        [len(part.images) for part in parts_of(4, method, {"data": {"views": "shared", "groups": groups}})]
        for groups in (1, 4)
    ]
    assert made == [[12] * 4, [3] * 4]


def test_processes_must_share_the_distinct_images() -> None:
    plan = plan_epoch(30, batch_size=24, num_inputs=1, repetition=2, input_repetition=0.0, seed=0, epoch=1)
    with pytest.raises(ValueError, match="5 processes cannot share 12 distinct images"):
        plan.part(0, "independent", 0, 5)


def test_rows_of_a_mixing() -> None:
    inside, outside, index = torch.rand(5, 2), torch.rand(5, 2), torch.tensor([3, 0, 3])
    zones = [{}, {"box": torch.randint(0, 4, (5, 4), dtype=torch.int32)}, {"bitmap": torch.rand(5, 4, 4) < 0.5}]
    for zone in zones:
        mixing = Mixing(inside, outside, (4, 4), **zone)
        assert torch.equal(mixing.rows(index).weights(), mixing.weights()[index])
