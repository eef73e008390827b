"""What the dali source does besides decoding: once an image and step, in place, in flat memory, from one pipeline."""

from __future__ import annotations

import gc
import resource
from collections import Counter
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from sources_here import HAS_DALI
from test_sources import COUNTS, all_pixels, epoch_of, feed_of, opened

from mixfast.data import DataError, SourceOptions, open_images
from mixfast.data.pixels import central_square
from mixfast.data.sources.interface import Request
from mixfast.methods import Moment

if not HAS_DALI:
    pytest.skip("NVIDIA DALI is not installed", allow_module_level=True)

from nvidia.dali import fn, types
from nvidia.dali.pipeline import Pipeline

from mixfast.data.sources import dali_source


@pytest.fixture
def reads(monkeypatch) -> Counter:
    """How often each file is read."""
    counter: Counter = Counter()
    read = dali_source._Feeder.read

    def counting(self, position: int) -> np.ndarray:
        counter[position] += 1
        return read(self, position)

    monkeypatch.setattr(dali_source._Feeder, "read", counting)
    return counter


@pytest.mark.parametrize("views", ["independent", "shared"])
def test_a_repeated_image_is_decoded_once(views, image_folder, reads) -> None:
    feed = feed_of(opened(image_folder(COUNTS, size=(8, 8)), "dali", ("train",))[0], {"data": {"views": views}})
    plan = feed.plan(2)
    epoch_of(feed)
    assert reads == dict.fromkeys(plan.images.flatten().tolist(), 1)


def test_epochs_share_one_pipeline_unless_one_is_broken_off(image_folder, monkeypatch) -> None:
    built = []
    build = dali_source.build_pipeline
    monkeypatch.setattr(dali_source, "build_pipeline", lambda *a: built.append(a) or build(*a))
    folder = image_folder({"train/cat": 300, "train/dog": 300, "test/cat": 1, "test/dog": 1}, size=(8, 8))
    feed = feed_of(opened(folder, "dali", ("train",))[0])
    expected = [batch.images for batch in epoch_of(feed, 3)]
    for epoch in (1, 2, 3):
        batches = feed.batches(feed.plan(epoch), Moment(epoch, 5))
        with closing(batches):  # as the trainer does: it takes what there is, and does not ask for more
            got = [next(batches).images for _ in range(len(feed.plan(epoch)))]
    assert len(built) == 1
    assert all(torch.equal(one, other) for one, other in zip(got, expected, strict=True))
    with closing(feed.batches(feed.plan(4), Moment(4, 5))) as batches:
        next(batches)
    assert all(torch.equal(one, other.images) for one, other in zip(expected, epoch_of(feed, 3), strict=True))
    assert len(built) == 2


def test_images_stay_valid_while_they_are_held(image_folder) -> None:
    folder = image_folder({"train/cat": 40, "train/dog": 40, "test/cat": 1, "test/dog": 1}, size=(8, 8))
    (data,), (resident,) = (opened(folder, kind, ("train",)) for kind in ("dali", "resident"))
    chunks = torch.arange(80).split(4)
    held = list(data.stream(lambda step: Request(chunks[step]), range(20), 4))
    assert torch.equal(torch.cat([pixels.images for pixels in held]), resident.images)


def test_memory_is_flat_over_epochs(tmp_path: Path, random_pixels) -> None:
    """Images of 3 MB when decoded: keeping one of 200 steps would be seen."""
    (tmp_path / "train/only").mkdir(parents=True)
    for number in range(8):
        picture = Image.fromarray(random_pixels(16, 16, seed=number)).resize((1000, 1000))
        picture.save(tmp_path / f"train/only/{number}.jpg")
    (data,) = open_images(f"folder:{tmp_path}", ("train",), options=SourceOptions("dali", workers=1))
    all_pixels(data)
    gc.collect()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(25):
        for start in range(0, 8, 4):
            chunk = torch.arange(start, start + 4)
            for pixels in data.stream(lambda _, chunk=chunk: Request(chunk), range(1), 4):
                assert pixels.images.shape == (4, 3, 1000, 1000)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # KiB
    assert grown < 8 * 12 * 1024  # eight steps' images


@pytest.mark.parametrize("size", [24, 64, 300])
def test_what_lies_beside_the_square_is_not_decoded_and_not_missed(size, tmp_path, random_pixels) -> None:
    """As where whole images are resized and then cropped, but where float32 tips a half: noise of any shape."""
    rng = np.random.default_rng(0)
    shapes = [tuple(int(side) for side in rng.integers(20, 600, 2)) for _ in range(14)]
    shapes += [(64, 64), (64, 65), (65, 64), (640, 20), (20, 640)]
    turned = Image.Exif()
    turned[0x112] = 6
    for split in ("train", "test"):
        (tmp_path / split / "only").mkdir(parents=True)
        for number, shape in enumerate(shapes):
            picture = Image.fromarray(random_pixels(*shape, seed=number))
            name = tmp_path / split / f"only/{number:02}"
            picture.save(f"{name}.png") if number % 2 else picture.save(f"{name}.jpg", exif=turned)
    (data,) = opened(tmp_path, "dali", ("train",), image_size=size)
    for image, expected in zip(all_pixels(data).permute(0, 2, 3, 1), resized_whole(data.files, size), strict=True):
        apart = (image.int() - expected).abs()
        assert apart.max() <= 1 and apart.double().mean() < 0.005


def resized_whole(files: tuple[str, ...], size: int) -> list[torch.Tensor]:
    """The same from whole images, decoded and resized by DALI, then cropped: int32 [H, W, c] each."""
    resized, squares = [], []
    for file in files:
        with Image.open(file) as image:
            width, height = ImageOps.exif_transpose(image).size
        width, height = (int(size * side / min(width, height)) for side in (width, height))
        left, top, _ = central_square(width, height)
        resized.append(np.array([height, width], np.float32))
        squares.append((slice(top, top + size), slice(left, left + size)))
    pipeline = Pipeline(batch_size=len(files), num_threads=2, device_id=None)
    with pipeline:
        encoded = fn.external_source(source=[[np.fromfile(file, np.uint8) for file in files]], batch=True)
        images = fn.decoders.image(encoded, device="cpu")
        sizes = fn.external_source(source=[resized], batch=True)
        pipeline.set_outputs(fn.resize(images, size=sizes, interp_type=types.INTERP_CUBIC, antialias=True))
    pipeline.build()
    (whole,) = pipeline.run()
    return [torch.from_numpy(np.array(whole.at(n))[square].astype(np.int32)) for n, square in enumerate(squares)]


def test_what_dali_alone_refuses_is_named_too(image_folder, monkeypatch) -> None:
    """A file that Pillow reads and DALI does not: here a GIF that is not taken for one."""
    folder = image_folder(COUNTS, size=(8, 8))
    Image.new("RGB", (8, 8)).save(folder / "train/dog/90.gif")
    (data,) = opened(folder, "dali", ("train",))
    monkeypatch.setattr(dali_source, "_GIF", b"none")
    with pytest.raises(DataError, match=r"cannot decode .*dog/90.gif: NVIDIA DALI refuses it: .*nvImageCodec"):
        all_pixels(data)


def test_what_is_said_of_it(image_folder) -> None:
    (data,) = opened(image_folder(COUNTS, size=(8, 8)), "dali", ("train",))
    assert data.source.describe() == "dali, decoded on the CPU (cpu), 2 threads"
