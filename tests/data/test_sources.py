"""Sources that decode while training: the same images, labels and batches as a resident set, and errors that name files."""

from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sources_here import STREAMING

from mixfast.config import Config
from mixfast.data import CorruptImageError, DataError, ImageSet, SourceOptions, StreamedSet, open_images
from mixfast.data.sources.interface import Request
from mixfast.methods import METHODS, Moment
from mixfast.training.feed import Batch, Feed
from mixfast.training.ranks import ONE_PROCESS, Ranks

Folder = Callable[..., Path]
COUNTS = {"train/cat": 9, "train/dog": 8, "test/cat": 3, "test/dog": 2}


def opened(name: str | Path, kind: str, splits: tuple[str, ...] = ("train", "test"), **options: object) -> tuple:
    return open_images(f"folder:{name}", splits, options=SourceOptions(kind, workers=2), **options)


def all_pixels(data: ImageSet | StreamedSet, size: int = 4) -> torch.Tensor:
    chunks = torch.arange(len(data)).split(size)
    with closing(data.stream(lambda step: Request(chunks[step]), range(len(chunks)), size)) as stream:
        found = [pixels.images[pixels.locate(chunk)] for chunk, pixels in zip(chunks, stream, strict=True)]
    return torch.cat(found)


def feed_of(data: ImageSet | StreamedSet, sections: dict | None = None, ranks: Ranks = ONE_PROCESS) -> Feed:
    values = {
        "data": {"name": "pets", "pad": 1, "flip": True, "repetition": 2},
        "model": {"name": "wrn10-1"},
        "method": {"name": "cut-mixmo", "num_inputs": 2},
        "optimizer": {"lr": 0.1},
        "schedule": {"epochs": 5},
        "training": {"batch_size": 8},
    }
    for section, changes in (sections or {}).items():
        values[section] = {**values.get(section, {}), **changes}
    config = Config.model_validate(values)
    method = METHODS[config.method.name].from_settings(config.method.model_dump())
    return Feed(data, method, config, data.image_shape, ranks=ranks)


def epoch_of(feed: Feed, epoch: int = 2, first: int = 0) -> list[Batch]:
    return list(feed.batches(feed.plan(epoch), Moment(epoch, 5), first))


def assert_equal(first: Batch, second: Batch) -> None:
    for name in ("images", "index", "target", "weight", "other", "share"):
        left, right = getattr(first, name), getattr(second, name)
        assert (left is None and right is None) or torch.equal(left, right), name
    assert torch.equal(first.mixing.weights(), second.mixing.weights())


@pytest.mark.parametrize("kind", STREAMING)
@pytest.mark.parametrize(("channels", "image_size"), [(3, None), (1, None), (3, 6)])
def test_a_streamed_set_is_the_resident_one(kind: str, channels: int, image_size: int | None, image_folder: Folder):
    """PNGs: no decoder rounds. Resized ones may differ by the resampling's rounding."""
    folder = image_folder(COUNTS, size=(8, 8), channels=channels)
    for streamed, resident in zip(
        opened(folder, kind, image_size=image_size), opened(folder, "resident", image_size=image_size), strict=True
    ):
        for field in ("classes", "mean", "std", "name", "split", "image_shape", "shape", "channels", "skipped"):
            assert getattr(streamed, field) == getattr(resident, field), field
        assert torch.equal(streamed.labels, resident.labels)
        pixels = all_pixels(streamed)
        assert pixels.is_contiguous(memory_format=torch.channels_last)
        difference = (pixels.int() - resident.images.int()).abs().double()
        if image_size is None or kind == "torch":
            assert difference.max() == 0
        else:  # noise, the hardest to resample alike: another window or filter would be tens of levels off
            assert difference.max() <= 8 and difference.mean() < 1.5


MIXES = {
    "plain": {},
    "shared": {"data": {"views": "shared"}},
    "cutmix": {"msda": {"kind": "cutmix"}},
    "everything": {
        "data": {"views": "shared", "autoaugment": "cifar", "random_erasing": 0.5},
        "msda": {"kind": "cutmix-mixup", "probability": 1.0},
    },
}


@pytest.mark.parametrize("kind", STREAMING)
@pytest.mark.parametrize("mix", MIXES)
def test_batches_are_the_same_bits_whole_epochs_and_resumed(kind: str, mix: str, image_folder: Folder) -> None:
    folder = image_folder(COUNTS, size=(8, 8))
    streamed, resident = (feed_of(opened(folder, source, ("train",))[0], MIXES[mix]) for source in (kind, "resident"))
    expected = epoch_of(resident)
    assert len(expected) == streamed.steps_per_epoch == 4
    for first in (0, 2):
        got = epoch_of(streamed, first=first)
        for one, other in zip(got, expected[first:], strict=True):
            assert_equal(one, other)
    assert_equal(streamed.batch(streamed.plan(2), 3, Moment(2, 5)), expected[3])


@pytest.mark.parametrize("mix", MIXES)
def test_a_process_of_two_decodes_what_it_shows_and_no_more(mix: str, image_folder: Folder, monkeypatch) -> None:
    folder = image_folder(COUNTS, size=(8, 8))
    in_files, in_memory = (opened(folder, kind, ("train",))[0] for kind in ("torch", "resident"))
    asked: list[set[int]] = []
    stream = StreamedSet.stream

    def watched(data: StreamedSet, requests: Callable, steps: range, largest: int):
        def remembered(step: int) -> Request:
            request = requests(step)
            asked.append(set(request.index.tolist()))
            assert len(request.index) <= largest
            return request

        return stream(data, remembered, steps, largest)

    monkeypatch.setattr(StreamedSet, "stream", watched)
    groups = {"data": {**MIXES[mix].get("data", {}), "groups": 2}}
    seen = []
    for rank in range(2):
        streamed, resident = (feed_of(data, {**MIXES[mix], **groups}, Ranks(rank, 2)) for data in (in_files, in_memory))
        asked.clear()
        for one, other in zip(epoch_of(streamed), epoch_of(resident), strict=True):
            assert_equal(one, other)
        seen.append([set(step) for step in asked])
    if mix in ("plain", "shared"):  # no partners: the processes of a step have no image in common
        assert all(not mine & others and len(mine) == len(others) == 2 for mine, others in zip(*seen, strict=True))


@pytest.mark.parametrize("kind", STREAMING)
def test_jpegs_agree_within_the_decoders_rounding(kind: str, tmp_path: Path, random_pixels) -> None:
    for split, label, number in (("train", "cat", 3), ("train", "dog", 3), ("test", "cat", 1), ("test", "dog", 1)):
        (tmp_path / split / label).mkdir(parents=True)
        for seed in range(number):
            smooth = Image.fromarray(random_pixels(5, 5, seed=seed)).resize((40, 30), Image.Resampling.BICUBIC)
            smooth.save(tmp_path / split / label / f"{seed}.jpg", quality=90)
    (streamed,), (resident,) = (opened(tmp_path, source, ("train",)) for source in (kind, "resident"))
    difference = (all_pixels(streamed).int() - resident.images.int()).abs()
    assert difference.max() <= (0 if kind == "torch" else 2)


def spoil(kind: str, file: Path, jpeg: Callable[[Path], Path]) -> None:
    if kind == "truncated":
        jpeg(file)
    else:
        file.write_bytes(b"" if kind == "empty" else b"not an image at all")


@pytest.mark.parametrize("kind", STREAMING)
@pytest.mark.parametrize("fault", ["truncated", "empty", "text"])
def test_a_file_that_breaks_is_named(kind, fault, image_folder, truncated_jpeg) -> None:
    folder = image_folder(COUNTS, size=(32, 32))
    (data,) = opened(folder, kind, ("train",))
    spoil(fault, folder / "train/dog/05.png", truncated_jpeg)
    with pytest.raises(CorruptImageError, match=r"train\).*cannot decode .*dog/05.png: .*--skip-corrupt"):
        all_pixels(data)


def test_processes_end_with_the_stream(image_folder) -> None:
    """At once, also where someone holds the error that ended it: else they end when the garbage is collected."""
    folder = image_folder(COUNTS, size=(32, 32))
    (data,) = opened(folder, "torch", ("train",))
    with closing(data.stream(lambda step: Request(torch.arange(4) + step), range(8), 4)) as stream:
        next(stream)
        assert len(multiprocessing.active_children()) == 2
    assert not multiprocessing.active_children()
    (folder / "train/dog/05.png").write_bytes(b"")
    with pytest.raises(CorruptImageError) as held:
        all_pixels(data)
    assert held.tb and not multiprocessing.active_children()


@pytest.mark.parametrize("kind", STREAMING)
def test_corrupt_files_are_left_out_as_in_a_resident_set(kind, image_folder, truncated_jpeg) -> None:
    folder = image_folder(COUNTS, size=(32, 32))
    for number, fault in enumerate(("truncated", "empty", "text")):
        spoil(fault, folder / f"train/dog/0{2 * number}.png", truncated_jpeg)
    with pytest.warns(UserWarning, match="left out 3 corrupt images: .*dog/00.png"):
        (streamed,), (resident,) = (opened(folder, each, ("train",), skip_corrupt=True) for each in (kind, "resident"))
    assert streamed.skipped == resident.skipped == 3
    assert (streamed.mean, streamed.std) == (resident.mean, resident.std)
    assert torch.equal(all_pixels(streamed), resident.images)
    with pytest.raises(CorruptImageError, match="dog/00.png"):
        opened(folder, kind, ("train",))


@pytest.mark.parametrize("kind", STREAMING)
def test_unusual_images_are_read_as_resident_ones(kind, image_folder, random_pixels) -> None:
    """CMYK, 16 bits, palette, transparency, turned by EXIF, GIF, grey among colour."""
    folder = image_folder(COUNTS, size=(16, 16))
    cats, colour = folder / "train/cat", Image.fromarray(random_pixels(16, 16))
    colour.convert("CMYK").save(cats / "90.jpg")
    Image.fromarray(np.arange(256, dtype=np.uint16).reshape(16, 16) * 257).save(cats / "91.png")
    colour.convert("P").save(cats / "92.png")
    colour.convert("RGBA").save(cats / "93.png")
    exif = Image.Exif()
    exif[0x112] = 6
    colour.save(cats / "94.jpg", exif=exif)
    colour.convert("P").save(cats / "95.gif")
    colour.convert("L").save(cats / "96.png")
    (streamed,), (resident,) = (opened(folder, each, ("train",)) for each in (kind, "resident"))
    difference = (all_pixels(streamed).int() - resident.images.int()).abs().max()
    assert difference <= (0 if kind == "torch" else 2)


@pytest.mark.parametrize("kind", STREAMING)
def test_a_folder_that_vanishes_in_mid_epoch(kind: str, image_folder: Folder) -> None:
    """Many more images than are read ahead."""
    folder = image_folder({"train/cat": 500, "train/dog": 500, "test/cat": 1, "test/dog": 1}, size=(8, 8))
    feed = feed_of(opened(folder, kind, ("train",))[0])
    with closing(feed.batches(feed.plan(1), Moment(1, 5))) as batches:
        next(batches)
        shutil.rmtree(folder / "train")
        with pytest.raises(DataError, match=r"\(train\): cannot read .*/train/.*png: No such file .* was listed"):
            list(batches)


@pytest.mark.parametrize("kind", STREAMING)
def test_two_sizes_are_named(kind: str, image_folder: Folder) -> None:
    folder = image_folder(COUNTS, size=(8, 8))
    (data,) = opened(folder, kind, ("train",))
    Image.new("RGB", (9, 7)).save(folder / "train/dog/03.png")
    with pytest.raises(DataError, match=r"cat/00.png is 8x8, .*dog/03.png is 9x7; give image_size"):
        all_pixels(data)


@pytest.mark.parametrize("kind", STREAMING)
def test_arrays_have_no_files(kind: str) -> None:
    with pytest.raises(DataError, match=f"data.source is {kind} and data.name is digits: .*set data.source=resident"):
        open_images("digits", ("train",), options=SourceOptions(kind))


def test_a_subset_has_its_own_files(image_folder: Folder) -> None:
    (data,) = opened(image_folder(COUNTS, size=(8, 8)), "torch", ("train",))
    part = data.subset(torch.tensor([1, 10, 16]), "validation")
    assert [Path(file).name for file in part.files] == ["01.png", "01.png", "07.png"]
    assert part.labels.tolist() == [0, 1, 1] and part.split == "validation"
    assert part.identity() != data.identity()
    assert torch.equal(all_pixels(part), all_pixels(data)[[1, 10, 16]])


def test_a_moved_data_set_is_still_the_same(image_folder: Folder, tmp_path: Path) -> None:
    folder = image_folder(COUNTS, size=(8, 8))
    (before,) = opened(folder, "torch", ("train",))
    folder.rename(tmp_path / "elsewhere")
    (after,) = opened(tmp_path / "elsewhere", "torch", ("train",))
    assert before.identity() == after.identity()
