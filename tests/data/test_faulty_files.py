"""Files that break, and files that only look broken: every source names the first and reads the others as Pillow does."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sources_here import STREAMING
from test_sources import all_pixels, opened

from mixfast.data import CorruptImageError

SOURCES = ("resident", *STREAMING)
COUNTS = {"train/cat": 4, "train/dog": 4, "test/cat": 1, "test/dog": 1}
FAULTY = 6  # train/dog/02.*, in the order of the data set


@pytest.fixture
def photographs(tmp_path: Path, random_pixels: Callable[..., np.ndarray]) -> Path:
    """Smooth JPEGs of 64 x 48 pixels."""
    for folder, count in COUNTS.items():
        (tmp_path / folder).mkdir(parents=True)
        for number in range(count):
            smooth = Image.fromarray(random_pixels(6, 8, seed=number)).resize((64, 48), Image.Resampling.BICUBIC)
            smooth.save(tmp_path / folder / f"{number:02}.jpg", quality=90)
    return tmp_path


def pixels_through(source: str, folder: Path, **options: object) -> torch.Tensor:
    (data,) = opened(folder, source, ("train",), **options)
    return data.images if source == "resident" else all_pixels(data)


def broken_later(source: str, folder: Path, spoil: Callable[[Path], object]) -> None:
    """Reads the images after a file has been spoilt, which was sound when a streaming source looked at all of them."""
    file = folder / f"train/dog/{FAULTY - 4:02}.jpg"
    if source == "resident":
        spoil(file)
        pixels_through(source, folder)
    else:
        (data,) = opened(folder, source, ("train",))
        spoil(file)
        all_pixels(data)


def cut(share: float) -> Callable[[Path], object]:
    return lambda file: file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])


BREAKS = {
    "half of it": cut(0.5),
    "nine tenths of it": cut(0.9),
    "without its end marker": lambda file: file.write_bytes(file.read_bytes()[:-2]),
    "its head": cut(0.2),
    "empty": lambda file: file.write_bytes(b""),
}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("fault", BREAKS)
def test_a_jpeg_that_is_cut_off_is_named(source: str, fault: str, photographs: Path) -> None:
    with pytest.raises(CorruptImageError, match=r"\(train\): cannot decode .*dog/02.jpg: .*--skip-corrupt"):
        broken_later(source, photographs, BREAKS[fault])


@pytest.mark.parametrize("source", SOURCES)
def test_jpegs_that_are_cut_off_are_left_out_on_request(source: str, photographs: Path) -> None:
    whole = pixels_through("resident", photographs)
    for number, fault in enumerate(("half of it", "without its end marker", "empty")):
        BREAKS[fault](photographs / f"train/dog/{number:02}.jpg")
    with pytest.warns(UserWarning, match="left out 3 corrupt images: .*dog/00.jpg"):
        left = pixels_through(source, photographs, skip_corrupt=True)
    difference = (left.int() - whole[[0, 1, 2, 3, 7]].int()).abs()
    assert difference.max() <= (2 if source == "dali" else 0)


def colour() -> Image.Image:
    return Image.fromarray(np.random.default_rng(9).integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize(
        (64, 48), Image.Resampling.BICUBIC
    )


def inverted(image: Image.Image) -> Image.Image:
    """CMYK with ink and paper exchanged, as Adobe's programs write it."""
    return Image.fromarray(255 - np.asarray(image.convert("CMYK")), "CMYK")


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("image", [colour().convert("CMYK"), inverted(colour())], ids=["CMYK", "inverted CMYK"])
@pytest.mark.parametrize("image_size", [None, 32])
def test_a_cmyk_jpeg_is_what_pillow_makes_of_it(source, image, image_size, photographs: Path) -> None:
    file = photographs / "train/dog/02.jpg"
    image.save(file, quality=95)
    with Image.open(file) as opened_file:
        assert opened_file.mode == "CMYK"
        expected = opened_file.convert("RGB")
    if image_size is not None:  # what is off by a level or two before may be so after resampling
        expected = expected.resize((42, 32), Image.Resampling.BICUBIC).crop((5, 0, 37, 32))
    got = pixels_through(source, photographs, image_size=image_size)[FAULTY].permute(1, 2, 0).int()
    difference = (got - torch.from_numpy(np.asarray(expected).astype(np.int32))).abs()
    assert difference.max() <= (0 if source != "dali" else 2 if image_size is None else 8)


def sixteen_bit_png(values: np.ndarray) -> bytes:
    """uint16 [H, W] or [H, W, 3] as a PNG of 16 bits a channel: Pillow writes no such colour."""
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 16, 2 if values.ndim == 3 else 0, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("shape", [(48, 64), (48, 64, 3)], ids=["grey", "colour"])
def test_a_16_bit_png_is_scaled_to_8(source: str, shape: tuple[int, ...], photographs: Path) -> None:
    """Neither clipped nor wrapped. Of colour Pillow keeps the high byte, which is within a level of the nearest."""
    values = np.random.default_rng(4).integers(0, 65536, shape, dtype=np.uint16)
    values.flat[:4] = 0, 255, 256, 65535
    (photographs / "train/dog/02.jpg").unlink()
    (photographs / "train/dog/02.png").write_bytes(sixteen_bit_png(values))
    got = pixels_through(source, photographs)[FAULTY].permute(1, 2, 0).numpy()
    nearest = np.rint(values.astype(np.float64) * 255 / 65535).reshape(*shape[:2], -1)
    assert np.abs(got - nearest).max() <= (1 if len(shape) == 3 and source != "dali" else 0)
