"""One image file to uint8 pixels: every kind of file that people's folders hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torchvision
from PIL import Image

from mixfast.data.pixels import UndecodableError, is_colour, read_pixels

Pixels = Callable[..., np.ndarray]


def saved(path: Path, image: Image.Image, **options: object) -> str:
    image.save(path, **options)
    return str(path)


def test_rgb_png_is_exact(tmp_path: Path, random_pixels: Pixels) -> None:
    pixels = random_pixels(5, 7)
    file = saved(tmp_path / "a.png", Image.fromarray(pixels))
    np.testing.assert_array_equal(read_pixels(file, 3, None), pixels)


def test_grey_fills_all_three_channels_of_a_colour_set(tmp_path: Path, random_pixels: Pixels) -> None:
    grey = random_pixels(5, 7, 1)
    file = saved(tmp_path / "a.png", Image.fromarray(grey))
    np.testing.assert_array_equal(read_pixels(file, 1, None), grey[:, :, None])
    np.testing.assert_array_equal(read_pixels(file, 3, None), np.stack([grey] * 3, axis=2))


def test_colour_in_a_grey_set_becomes_luma(tmp_path: Path, random_pixels: Pixels) -> None:
    pixels = random_pixels(5, 7)
    file = saved(tmp_path / "a.png", Image.fromarray(pixels))
    luma = pixels.astype(np.float64) @ [0.299, 0.587, 0.114]
    assert np.abs(read_pixels(file, 1, None)[:, :, 0] - luma).max() <= 1


def test_transparency_is_dropped_not_composited(tmp_path: Path, random_pixels: Pixels) -> None:
    rgba = random_pixels(5, 7, 4)
    file = saved(tmp_path / "a.png", Image.fromarray(rgba, "RGBA"))
    np.testing.assert_array_equal(read_pixels(file, 3, None), rgba[:, :, :3])


def test_grey_with_alpha(tmp_path: Path, random_pixels: Pixels) -> None:
    la = random_pixels(5, 7, 2)
    file = saved(tmp_path / "a.png", Image.fromarray(la, "LA"))
    np.testing.assert_array_equal(read_pixels(file, 1, None), la[:, :, :1])
    np.testing.assert_array_equal(read_pixels(file, 3, None), np.repeat(la[:, :, :1], 3, axis=2))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("options", [{}, {"transparency": b"\x00\x80\xff"}], ids=["opaque", "transparent"])
def test_palettes_are_looked_up(tmp_path: Path, options: dict) -> None:
    colours = np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90]], dtype=np.uint8)
    index = np.array([[0, 1, 2], [2, 1, 0]], dtype=np.uint8)
    image = Image.fromarray(index, "P")
    image.putpalette(colours.tobytes())
    file = saved(tmp_path / "a.png", image, **options)
    np.testing.assert_array_equal(read_pixels(file, 3, None), colours[index])


def test_black_and_white(tmp_path: Path) -> None:
    bits = np.array([[True, False, True]])
    file = saved(tmp_path / "a.png", Image.fromarray(bits))
    np.testing.assert_array_equal(read_pixels(file, 1, None)[:, :, 0], bits * 255)


def test_sixteen_bit_grey_is_scaled_to_nearest(tmp_path: Path) -> None:
    values = np.array([[0, 1, 128, 129, 257, 1000, 32768, 65535]], dtype=np.uint16)
    file = saved(tmp_path / "a.png", Image.fromarray(values))
    expected = np.rint(values.astype(np.float64) * 255 / 65535)
    np.testing.assert_array_equal(read_pixels(file, 1, None)[:, :, 0], expected)
    np.testing.assert_array_equal(read_pixels(file, 3, None), np.repeat(expected[:, :, None], 3, axis=2))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([[0, 70_000]], dtype=np.int32), "0..70000, more than 16 bits"),
        (np.array([[0, 0.5]], dtype=np.float32), "floating-point pixels"),
    ],
)
def test_pixels_without_an_agreed_range_are_refused(tmp_path: Path, values: np.ndarray, message: str) -> None:
    file = saved(tmp_path / "a.tif", Image.fromarray(values))
    with pytest.raises(UndecodableError, match=message):
        read_pixels(file, 1, None)


# Orientation 6: the file's rows run from top to bottom on the right side, so it is shown turned clockwise.
@pytest.mark.parametrize(("orientation", "turn"), [(1, 0), (3, 2), (6, -1), (8, 1)])
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_exif_orientation_is_applied(
    tmp_path: Path, random_pixels: Pixels, orientation: int, turn: int, suffix: str
) -> None:
    image = Image.fromarray(random_pixels(8, 16))
    exif = Image.Exif()
    exif[0x0112] = orientation
    plain = saved(tmp_path / f"plain.{suffix}", image)
    turned = saved(tmp_path / f"turned.{suffix}", image, exif=exif)
    np.testing.assert_array_equal(read_pixels(turned, 3, None), np.rot90(read_pixels(plain, 3, None), turn))


@pytest.mark.parametrize("shape", [(40, 60), (61, 40), (16, 33), (10, 10), (9, 31), (7, 5)])
def test_resizing_agrees_with_torchvision(tmp_path: Path, random_pixels: Pixels, shape: tuple[int, int]) -> None:
    transforms = torchvision.transforms
    image = Image.fromarray(random_pixels(*shape))
    file = saved(tmp_path / "a.png", image)
    bicubic = transforms.InterpolationMode.BICUBIC
    expected = transforms.CenterCrop(16)(transforms.Resize(16, interpolation=bicubic, antialias=True)(image))
    np.testing.assert_array_equal(read_pixels(file, 3, 16), np.asarray(expected))


def test_resizing_is_antialiased(tmp_path: Path) -> None:
    """One-pixel stripes at a quarter of the size are grey; without antialiasing they would be black or white."""
    stripes = np.tile(np.array([0, 255], dtype=np.uint8), (64, 32))
    file = saved(tmp_path / "a.png", Image.fromarray(stripes))
    middle = read_pixels(file, 1, 16)[2:-2, 2:-2]
    assert 120 <= middle.min() and middle.max() <= 135


def test_truncated_jpeg(tmp_path: Path, truncated_jpeg: Callable[[Path], Path]) -> None:
    file = truncated_jpeg(tmp_path / "half.jpg")
    with pytest.raises(UndecodableError, match="truncated"):
        read_pixels(str(file), 3, None)


@pytest.mark.parametrize("content", [b"", b"no image at all", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"])
def test_what_is_no_image(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(content)
    with pytest.raises(UndecodableError):
        read_pixels(str(file), 3, None)
    assert not is_colour(str(file))


@pytest.mark.parametrize("position", [20, 40, 60, -30])
def test_a_damaged_png(tmp_path: Path, random_pixels: Pixels, position: int) -> None:
    file = tmp_path / "a.png"
    Image.fromarray(random_pixels(8, 8)).save(file)
    content = bytearray(file.read_bytes())
    content[position] ^= 0xFF
    file.write_bytes(content)
    with pytest.raises(UndecodableError):
        read_pixels(str(file), 3, None)


def test_an_absurdly_large_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    file = saved(tmp_path / "a.png", Image.new("RGB", (10, 10)))
    with pytest.raises(UndecodableError, match="decompression bomb"):
        read_pixels(file, 3, None)


def test_a_missing_file_is_not_a_corrupt_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="gone.png"):
        read_pixels(str(tmp_path / "gone.png"), 3, None)


@pytest.mark.parametrize(
    ("mode", "colour"), [("L", False), ("LA", False), ("1", False), ("RGB", True), ("RGBA", True), ("P", True)]
)
def test_which_headers_announce_colour(tmp_path: Path, mode: str, colour: bool) -> None:
    assert is_colour(saved(tmp_path / "a.png", Image.new(mode, (2, 2)))) is colour
