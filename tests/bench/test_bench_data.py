"""The pipeline's contenders: what they draw, and the figures that follow from their timings."""

from __future__ import annotations

import io

import pytest
import torch
from mixfast_bench.cases import DATA_CASES, Batches, Rounds, training_config
from mixfast_bench.data import BatchStream, Pipeline
from mixfast_bench.measure import Timings, no_mark
from mixfast_bench.registry import PIPELINE_COMPARISONS, PIPELINES
from mixfast_bench.runs import DataMeasurement, measure_pipelines
from mixfast_bench.summary import summarise_pipelines
from rich.console import Console

from mixfast.methods import METHODS, Moment
from mixfast.training.feed import Feed


def feed_of(case, batches, data):
    config = training_config(case, batches, device=torch.device("cpu"), backbone="wrn10-1")
    method = METHODS[config.method.name].from_settings(config.method.model_dump())
    return Feed(data, method, config, (16, 16)), config


@pytest.mark.parametrize("case", DATA_CASES, ids=lambda case: case.name)
def test_cases_are_what_their_names_say(case, small_batches, few_images):
    feed, config = feed_of(case, small_batches, few_images)
    batch = BatchStream(feed, 300).next()
    inputs = 1 if case.method == "single" else 2
    views = 8 * inputs if case.method == "single" or case.views == "independent" else 4
    assert batch.index.shape == (8, inputs)
    assert len(batch.images) == views
    every = "vit's" in case.name
    assert (batch.other is not None) == ("cutmix" in case.name or every)
    assert config.data.augmix == ("augmix" in case.name)
    assert (config.data.autoaugment != "none") == ("autoaugment" in case.name or every)
    assert config.data.random_erasing == (0.25 if every else 0)
    assert config.msda.kind == ("cutmix-mixup" if every else "cutmix" if "cutmix" in case.name else "none")
    pipeline = Pipeline(case.name, config, few_images)
    assert pipeline.floor_bytes == views * 3 * 16 * 16 * (1 + 4)


def test_views_are_kept_apart_without_repetition_too(few_images):
    """An image then stands in two slots: shared views are half as many."""
    views = [
        len(BatchStream(feed_of(case, Batches(6, 1), few_images)[0], 300).next().images) for case in DATA_CASES[1:3]
    ]
    assert views == [12, 6]


def test_the_stream_goes_on_into_the_next_epoch(small_batches, few_images):
    feed, _ = feed_of(DATA_CASES[1], small_batches, few_images)
    stream = BatchStream(feed, 300)
    steps = feed.steps_per_epoch
    got = [stream.next() for _ in range(steps + 2)]
    for number, epoch, step in ((0, 1, 0), (steps - 1, 1, steps - 1), (steps, 2, 0), (steps + 1, 2, 1)):
        expected = feed.batch(feed.plan(epoch), step, Moment(epoch, 300))
        assert torch.equal(got[number].images, expected.images)
        assert torch.equal(got[number].target, expected.target)


def test_measuring_times_every_pipeline_at_every_size(small_batches, few_images):
    quiet = Console(file=io.StringIO())
    measured = measure_pipelines(PIPELINES, small_batches, [few_images], Rounds(2, 1), quiet)
    assert list(measured.timings) == [*(f"16x16 {entry.name}" for entry in PIPELINES), "copy"]
    assert all(len(timings.total()) == 2 and min(timings.total()) > 0 for timings in measured.timings.values())


def test_figures_by_hand():
    class Copy:
        name, bytes = "copy", 1000

    timings = {
        "32x32 fast": Timings({"data": [0.1] * 6}),
        "32x32 slow": Timings({"data": [0.4] * 6}),
        "copy": Timings({"copy": [0.5] * 6}),
    }
    measured = DataMeasurement(timings, samples=8, floor_bytes={"32x32 fast": 50, "32x32 slow": 50}, copy=Copy())
    comparison = type(PIPELINE_COMPARISONS[0])("speed-up", "slow", "fast", 0.05)
    summary = summarise_pipelines(measured, [comparison], ["32x32 "])
    fast, slow = summary.rows
    assert (fast.samples_per_second, slow.samples_per_second) == pytest.approx((80, 20))
    assert fast.copy_share.value.median == pytest.approx(0.25)  # 50 bytes in the time of 200
    assert summary.ratios["32x32 speed-up"].value.median == pytest.approx(4)
    assert summary.copy_rate.median == pytest.approx(2000)


def test_comparisons_name_contenders():
    names = [entry.name for entry in PIPELINES]
    assert len(set(names)) == len(names)
    assert {name for c in PIPELINE_COMPARISONS for name in (c.numerator, c.denominator)} <= set(names)


@pytest.mark.parametrize("entry", [PIPELINES[1], PIPELINES[-1]], ids=lambda entry: entry.name)
def test_a_run_makes_one_batch(entry, small_batches, few_images, monkeypatch):
    pipeline = entry.build(few_images, small_batches, "wrn10-1")
    source = pipeline._stream if hasattr(pipeline, "_stream") else pipeline._loader
    made, make = [], source.next
    monkeypatch.setattr(source, "next", lambda: made.append(make()) or made[-1])
    marks = []
    pipeline.run(marks.append)
    pipeline.run(no_mark)
    assert marks == ["data"]
    assert len(made) == 2
