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
from mixfast_bench.sources import AGAIN, OPPONENT, REPEATED, SOURCE_COMPARISONS, SOURCES, TorchvisionLoader
from mixfast_bench.summary import summarise_pipelines
from PIL import Image
from rich.console import Console

from mixfast.data import SourceOptions, open_images
from mixfast.data.sources.dali_presence import why_no_dali

if why_no_dali("cpu", torch.device("cpu")):
    pytest.skip("NVIDIA DALI is not installed", allow_module_level=True)

from mixfast.data.sources import dali_source

BATCHES = Batches(8, 4)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Sixteen PNGs of 16 x 16 pixels in two classes."""
    monkeypatch.setenv("MIXFAST_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (tmp_path / "train" / label).mkdir(parents=True)
        for number in range(8):
            pixels = rng.integers(0, 256, (16, 16, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"train/{label}/{number}.png")
    return open_images(f"folder:{tmp_path}", ("train",), options=SourceOptions("torch", workers=1))[0]


@pytest.mark.parametrize("entry", SOURCES, ids=lambda entry: entry.name)
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


@pytest.mark.parametrize(("name", "decodings"), [(REPEATED, 1), (AGAIN, 4)])
def test_decodings_of_a_repeated_image(name, decodings, files, monkeypatch):
    reads, read = Counter(), dali_source._Feeder.read

    def counting(self, position):
        reads[position] += 1
        return read(self, position)

    monkeypatch.setattr(dali_source._Feeder, "read", counting)
    stream = next(entry for entry in SOURCES if entry.name == name).build(files, BATCHES)._stream
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


def test_the_opponent_crops_flips_and_normalises(files):
    loader = TorchvisionLoader("opponent", SOURCES[0].build(files, BATCHES)._stream._feed.config, files)
    transform = loader._loader.dataset.transform
    assert [type(step).__name__ for step in transform.transforms] == [
        "RandomCrop",
        "RandomHorizontalFlip",
        "ToTensor",
        "Normalize",
    ]
    assert len(loader._loader.dataset) == 16 and loader._loader.num_workers == 2


def test_a_measurement_has_every_row_and_comparison(files):
    quiet = Console(file=io.StringIO())
    measured = measure_pipelines(SOURCES, BATCHES, [files], Rounds(2, 1), quiet)
    summary = summarise_pipelines(measured, SOURCE_COMPARISONS, ["16x16 "])
    assert [row.name for row in summary.rows] == [f"16x16 {entry.name}" for entry in SOURCES]
    assert len(summary.ratios) == len(SOURCE_COMPARISONS) == 4
    assert any(OPPONENT in (c.numerator, c.denominator) for c in SOURCE_COMPARISONS)
