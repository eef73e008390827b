"""The bench's sources: all feed views of the same images, and each decodes as often as its name says."""

from __future__ import annotations

import io
from collections import Counter

import numpy as np
import pytest
import torch
from mixfast_bench.cases import Batches, Rounds
from mixfast_bench.measure import no_mark
from mixfast_bench.runs import measure_pipelines
from mixfast_bench.sources import (
    AGAIN,
    CUT_COMPARISONS,
    FILES,
    OPPONENT,
    REPEATED,
    REPEATED_FILES,
    SOURCE_COMPARISONS,
    SOURCES,
    TorchvisionLoader,
    cut_sources,
)
from mixfast_bench.summary import summarise_pipelines
from PIL import Image
from rich.console import Console

from mixfast.data import SourceOptions, open_images
from mixfast.data.sources.dali_presence import why_no_dali

if why_no_dali("cpu", torch.device("cpu")):
    pytest.skip("NVIDIA DALI is not installed", allow_module_level=True)

from mixfast.data.sources import dali_source

BATCHES = Batches(8, 4)
CUT_SOURCES = cut_sources((0.2, 1.0))


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Sixteen PNGs of 20 x 16 pixels in two classes, shown at 16 x 16."""
    monkeypatch.setenv("MIXFAST_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (tmp_path / "train" / label).mkdir(parents=True)
        for number in range(8):
            pixels = rng.integers(0, 256, (20, 16, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"train/{label}/{number}.png")
    return open_images(f"folder:{tmp_path}", ("train",), options=SourceOptions("torch", workers=1), image_size=16)[0]


@pytest.mark.parametrize("entry", (*SOURCES, *CUT_SOURCES), ids=lambda entry: f"{entry.name} {entry.crop_area or ''}")
def test_each_feeds_batches_epoch_after_epoch(entry, files):
    contender = entry.build(files, BATCHES, "16x16 ")
    assert contender.name == f"16x16 {entry.name}"
    assert contender.floor_bytes == 8 * 3 * 16 * 16 * (1 + 4)
    for _ in range(5):
        contender.run(no_mark)


def test_mixfast_rows_show_the_same_views(files):
    batches = {
        entry.name: [entry.build(files, BATCHES)._stream.next() for _ in range(1)][0]
        for entry in SOURCES
        if entry.kind != "torchvision"
    }
    for name, expected in (("dali", "resident"), ("torch", "resident"), (AGAIN, REPEATED)):
        assert torch.equal(batches[name].images, batches[expected].images)
        assert torch.equal(batches[name].target, batches[expected].target)
    assert len(torch.unique(batches[REPEATED].target)) <= 2


def test_rows_with_regions_show_the_same_parts(files):
    batches = {
        entry.name: entry.build(files, BATCHES)._stream.next() for entry in CUT_SOURCES if entry.kind != "torchvision"
    }
    assert torch.equal(batches["torch"].images, batches["resident"].images)
    for name, expected in (("dali", "resident"), (FILES, "resident"), (REPEATED_FILES, REPEATED)):
        assert torch.equal(batches[name].target, batches[expected].target)
        assert (batches[name].images - batches[expected].images).abs().mean() < 0.1
    assert len(torch.unique(batches[REPEATED].target)) <= 2


@pytest.mark.parametrize(
    ("entries", "name", "decodings"), [(SOURCES, REPEATED, 1), (SOURCES, AGAIN, 4), (CUT_SOURCES, REPEATED_FILES, 4)]
)
def test_decodings_of_a_repeated_image(entries, name, decodings, files, monkeypatch):
    reads, read = Counter(), dali_source._Feeder.read

    def counting(self, position):
        reads[position] += 1
        return read(self, position)

    monkeypatch.setattr(dali_source._Feeder, "read", counting)
    stream = next(entry for entry in entries if entry.name == name).build(files, BATCHES)._stream
    reads.clear()
    for _ in range(7):  # eight steps are an epoch, and building the contender took the first
        stream.next()
    feed = stream._feed
    assert len(feed.plan(1)) == 8
    list(feed.batches(feed.plan(2), stream_moment()))
    assert set(reads.values()) <= {decodings, 2 * decodings}
    assert reads[0] % decodings == 0 and max(reads.values()) >= decodings


def stream_moment():
    from mixfast.methods import Moment

    return Moment(2, 300)


@pytest.mark.parametrize(
    ("entries", "crop"), [(SOURCES, ["Resize", "CenterCrop", "RandomCrop"]), (CUT_SOURCES, ["RandomResizedCrop"])]
)
def test_the_opponent_crops_flips_and_normalises(entries, crop, files):
    loader = TorchvisionLoader("opponent", entries[0].build(files, BATCHES)._stream._feed.config, files)
    transforms = loader._loader.dataset.transform.transforms
    assert [type(step).__name__ for step in transforms] == [*crop, "RandomHorizontalFlip", "ToTensor", "Normalize"]
    if entries is CUT_SOURCES:
        assert transforms[0].scale == (0.2, 1.0) and transforms[0].size == (16, 16)
    assert len(loader._loader.dataset) == 16 and loader._loader.num_workers == 2


@pytest.mark.parametrize(
    ("entries", "comparisons", "count"), [(SOURCES, SOURCE_COMPARISONS, 4), (CUT_SOURCES, CUT_COMPARISONS, 5)]
)
def test_a_measurement_has_every_row_and_comparison(entries, comparisons, count, files):
    quiet = Console(file=io.StringIO())
    measured = measure_pipelines(entries, BATCHES, [files], Rounds(2, 1), quiet)
    summary = summarise_pipelines(measured, comparisons, ["16x16 "])
    assert [row.name for row in summary.rows] == [f"16x16 {entry.name}" for entry in entries]
    assert len(summary.ratios) == len(comparisons) == count
    assert any(OPPONENT in (c.numerator, c.denominator) for c in comparisons)
