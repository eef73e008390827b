"""One image: from whatever Pillow opened to uint8 [H, W, c]."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import ExifTags, Image, ImageOps

from mixfast.data.encoded import EncodedFile, openable
from mixfast.data.regions import Region, span

# One channel of brightness. Palette images ("P") count as colour: that is what palettes are mostly for.
_SIXTEEN_BIT_GREY = frozenset({"I", "I;16", "I;16B", "I;16L", "I;16N"})
_GREY = _SIXTEEN_BIT_GREY | {"1", "L", "LA", "La", "F"}

# Pillow's mode for so many channels.
_MODES = {1: "L", 3: "RGB"}

# EXIF orientations whose rows are the upright image's columns.
_ORIENTATIONS_ON_THE_SIDE = frozenset({5, 6, 7, 8})

# What Pillow raises for files that are not the images they claim to be.
_UNDECODABLE = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error)


class UndecodableError(Exception):
    """The file's content is not an image that can be read; the message says why, not which file."""


def read_pixels(file: EncodedFile, channels: int, image_size: int | None) -> np.ndarray:
    """The image in `file` as uint8 [H, W, channels], upright (its EXIF orientation applied).

    channels 1 is Pillow's "L" (ITU-R 601 luma), 3 its "RGB": palettes are looked up, and transparency is dropped,
    not composited: a pixel keeps the colour it stores, as in torchvision's folder loader. 16-bit grey is scaled to
    8 bits by 255/65535, to nearest. With `image_size` the result is image_size x image_size: see `resize_and_crop`.

    Raises UndecodableError for bad content, OSError if the file cannot be read at all.
    """
    with _upright(file) as image:
        return pixels_of(image, channels, image_size)


def read_region(file: EncodedFile, channels: int, image_size: int, region: Region) -> np.ndarray:
    """A region of the central square of the image in `file`, cut out of all its pixels, then resized (bilinear,
    antialiased): uint8 [image_size, image_size, channels]. Conversion and errors as in `read_pixels`."""
    with _upright(file) as image:
        left, top, side = central_square(*image.size)
        (row, height), (column, width) = span(region.height, region.top, side), span(region.width, region.left, side)
        box = (left + column, top + row, left + column + width, top + row + height)
        cut = _convert(image, _MODES[channels]).crop(box)
        return _array(cut.resize((image_size, image_size), Image.Resampling.BILINEAR))


@contextmanager
def _upright(file: EncodedFile) -> Iterator[Image.Image]:
    """The image in `file`, its EXIF orientation applied; what goes wrong with it meanwhile is told from what the system
    does not give."""
    try:
        with Image.open(openable(file)) as image:
            ImageOps.exif_transpose(image, in_place=True)
            yield image
    except Image.DecompressionBombError as error:
        raise UndecodableError(str(error)) from error
    except _UNDECODABLE as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the file system's word, not the decoder's: a missing file or permission, a failing disk
        reason = "not an image" if isinstance(error, Image.UnidentifiedImageError) else str(error)
        raise UndecodableError(reason) from error


def pixels_of(image: Image.Image, channels: int, image_size: int | None) -> np.ndarray:
    """`image` as uint8 [H, W, channels], converted and resized as `read_pixels` says."""
    converted = _convert(image, _MODES[channels])
    return _array(converted if image_size is None else resize_and_crop(converted, image_size))


def _array(image: Image.Image) -> np.ndarray:
    """uint8 [H, W, c]."""
    pixels = np.asarray(image)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def resize_and_crop(image: Image.Image, size: int) -> Image.Image:
    """Shorter side to `size` pixels (bicubic, antialiased; the longer side rounded down), then the centre square."""
    width, height = image.size
    shorter = min(width, height)
    if shorter != size:
        width, height = int(size * width / shorter), int(size * height / shorter)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top, _ = central_square(width, height)
    return image.crop((left, top, left + size, top + size))


def central_square(width: int, height: int) -> tuple[int, int, int]:
    """(left, top, side) of the largest square in the middle of an image."""
    side = min(width, height)
    return round((width - side) / 2), round((height - side) / 2), side


def is_colour(file: EncodedFile) -> bool:
    """Whether the header of `file` announces colour. An unreadable header announces nothing: decoding will tell."""
    try:
        with Image.open(openable(file)) as image:
            return image.mode not in _GREY
    except (Image.DecompressionBombError, *_UNDECODABLE):
        return False


def upright_size(file: EncodedFile) -> tuple[int, int] | None:
    """(height, width) that `file` announces, its EXIF orientation applied; None where the header cannot be read."""
    try:
        with Image.open(openable(file)) as image:
            width, height = image.size
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) in _ORIENTATIONS_ON_THE_SIDE
            return (width, height) if turned else (height, width)
    except (Image.DecompressionBombError, *_UNDECODABLE):
        return None


def _convert(image: Image.Image, mode: str) -> Image.Image:
    if image.mode in _SIXTEEN_BIT_GREY:
        image = _to_eight_bits(image)
    if image.mode == "F":
        raise ValueError("floating-point pixels, which have no agreed range")
    if image.mode == mode:
        return image
    image.info.pop("transparency", None)  # or Pillow warns of each palette whose transparency is dropped
    return image.convert(mode)


def _to_eight_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError(f"grey values {values.min()}..{values.max()}, more than 16 bits")
    return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
