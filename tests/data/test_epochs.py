"""Over an epoch each image stands exactly b times in every slot: from every source, on any number of processes, also where a
run is resumed in mid-epoch, on another number of processes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from sources_here import STREAMING
from test_sources import feed_of, opened

from mixfast.data import ImageSet, StreamedSet
from mixfast.methods import Moment
from mixfast.training.feed import Batch
from mixfast.training.ranks import Ranks

IMAGES = 23


@pytest.fixture(params=("resident", *STREAMING))
def numbered(request: pytest.FixtureRequest, image_folder) -> ImageSet | StreamedSet:
    """Images of one value each, which tell from the batches themselves who stands where."""
    folder = image_folder({"train/cat": 13, "train/dog": 10, "test/cat": 1, "test/dog": 1}, size=(8, 8))
    for number, file in enumerate(sorted((folder / "train").rglob("*.png"))):
        Image.fromarray(np.full((8, 8, 3), 10 * number + 5, np.uint8)).save(file)
    return opened(folder, request.param, ("train",))[0]


def numbers(batch: Batch, data: ImageSet | StreamedSet) -> list[list[int]]:
    """The images that a batch shows in each of its slots."""
    values = batch.images[:, 0, 4, 4] * data.std[0] + data.mean[0]
    shown = ((values * 255 - 5) / 10).round().long()
    return [shown[batch.index[:, slot]].tolist() for slot in range(batch.index.shape[1])]


def shares(data: ImageSet | StreamedSet, sections: dict, count: int, epoch: int, steps: range) -> Iterator[Batch]:
    """What each of `count` processes makes of some steps, one process after the other."""
    for rank in range(count):
        feed = feed_of(data, sections, Ranks(rank, count))
        with closing(feed.batches(feed.plan(epoch), Moment(epoch, 5), steps.start)) as batches:
            for _ in steps:
                yield next(batches)


def test_every_image_b_times_in_every_slot(numbered: ImageSet | StreamedSet) -> None:
    @settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        repetition=st.integers(1, 3),
        times=st.integers(1, 3),
        views=st.sampled_from(["independent", "shared"]),
        epoch=st.integers(1, 5),
        before=st.sampled_from([1, 2, 3]),
        after=st.sampled_from([1, 2, 3]),
        break_at=st.floats(0, 1),
    )
    def check(repetition: int, times: int, views: str, epoch: int, before: int, after: int, break_at: float) -> None:
        distinct = times * math.lcm(before, after)
        sections = {
            "data": {"pad": 0, "repetition": repetition, "views": views},
            "training": {"batch_size": repetition * distinct},
        }
        plan = feed_of(numbered, sections).plan(epoch)
        stop = int(break_at * len(plan))
        made = [
            *shares(numbered, sections, before, epoch, range(stop)),
            *shares(numbered, sections, after, epoch, range(stop, len(plan))),
        ]
        counts = [Counter(), Counter()]
        for batch in made:
            for counter, shown in zip(counts, numbers(batch, numbered), strict=True):
                counter.update(shown)
        used = plan.images.flatten().tolist()
        assert counts[0] == counts[1] == dict.fromkeys(used, repetition)
        assert len(used) == IMAGES // distinct * distinct

    check()
