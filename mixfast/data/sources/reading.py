"""One image read on the host, with errors that name its file: what the torch source does, and what DALI is checked by."""

from __future__ import annotations

import numpy as np

from mixfast.data.decode import corrupt_image_error
from mixfast.data.encoded import EncodedFile
from mixfast.data.errors import DataError
from mixfast.data.pixels import UndecodableError, read_pixels, read_region
from mixfast.data.regions import Region
from mixfast.data.sources.interface import PixelFormat


def read_image(file: EncodedFile, form: PixelFormat, what: str, region: Region | None = None) -> np.ndarray:
    """The image in `file` as uint8 [H, W, c], exactly as a resident set holds it; or a region of it, at the same size.

    Raises CorruptImageError or DataError that name the file and `what` it belongs to.
    """
    try:
        if region is None:
            pixels = read_pixels(file, form.channels, form.image_size)
        else:
            pixels = read_region(file, form.channels, form.height, region)
    except UndecodableError as error:
        raise corrupt_image_error(what, [f"{file}: {error}"]) from error
    except OSError as error:
        raise unreadable(file, what, error) from error
    if pixels.shape[:2] != (form.height, form.width):
        raise other_size(file, (pixels.shape[0], pixels.shape[1]), form, what)
    return pixels


def unreadable(file: EncodedFile, what: str, error: OSError) -> DataError:
    """For a file that the system does not give, such as one whose folder has vanished."""
    return DataError(
        f"{what}: cannot read {file}: {error.strerror or error}; it was there when the data set was listed"
    )


def other_size(file: EncodedFile, size: tuple[int, int], form: PixelFormat, what: str) -> DataError:
    """For an image of (height, width) `size` among others that have one size."""
    return DataError(
        f"{what}: images have different sizes: {form.model} is {form.width}x{form.height}, {file} is "
        f"{size[1]}x{size[0]}; give image_size to resize and crop them all"
    )
