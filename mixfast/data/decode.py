"""Many images: decoded by a pool of threads into one preallocated tensor, with a progress bar."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text
from torch import Tensor

from mixfast.data.encoded import EncodedFile
from mixfast.data.errors import CorruptImageError, DataError
from mixfast.data.memory import require_memory
from mixfast.data.pixels import UndecodableError, is_colour, pixels_of, read_pixels

# Images a thread takes at once: enough to make handing out work free, few enough to end together and stop soon.
_CHUNK = 32


@dataclass(frozen=True)
class DecodedFiles:
    """images uint8 [n, H, W, c]; kept: their n positions in the list of files; skipped: "file: reason" of the rest."""

    images: Tensor
    kept: list[int]
    skipped: tuple[str, ...]


def decode_files(
    files: Sequence[EncodedFile], *, channels: int | None, image_size: int | None, skip_corrupt: bool, what: str
) -> DecodedFiles:
    """Decodes `files`, in order. `what` names them in messages and on the progress bar.

    channels: None decides by the files' headers: 3, unless every image is grey.
    image_size: resize and crop to this many pixels squared (`pixels.resize_and_crop`); None keeps the images as they
    are, which must then all have one size.

    Raises CorruptImageError for the first file that cannot be decoded, unless `skip_corrupt`; DataError for two
    sizes, or if no file can be decoded; OutOfMemoryError, before decoding, if the result would not fit.
    """
    if channels is None:
        channels = 3 if any(is_colour(file) for file in files) else 1
    unreadable: dict[int, str] = {}

    def read(position: int) -> np.ndarray | None:
        try:
            return read_pixels(files[position], channels, image_size)
        except UndecodableError as error:
            if not skip_corrupt:
                raise corrupt_image_error(what, [f"{files[position]}: {error}"]) from error
            unreadable[position] = str(error)
            return None

    model, height, width = _first_size(files, read, image_size, what)
    require_memory(len(files) * height * width * channels, f"{what}: {len(files):,} images of {width}x{height}")
    images = np.empty((len(files), height, width, channels), dtype=np.uint8)

    def fill(position: int) -> None:
        pixels = read(position)
        if pixels is None:
            return
        if pixels.shape != images.shape[1:]:
            raise DataError(
                f"{what}: images have different sizes: {files[model]} is {width}x{height}, {files[position]} is "
                f"{pixels.shape[1]}x{pixels.shape[0]}; give image_size to resize and crop them all"
            )
        images[position] = pixels

    in_parallel(len(files), fill, what)
    kept = [position for position in range(len(files)) if position not in unreadable]
    for place, position in enumerate(kept):
        if place != position:  # close the gaps in place: a second copy of a large set might not fit
            images[place] = images[position]
    skipped = tuple(f"{files[position]}: {unreadable[position]}" for position in sorted(unreadable))
    return DecodedFiles(torch.from_numpy(images[: len(kept)]), kept, skipped)


def resize_arrays(images: np.ndarray, image_size: int | None, what: str) -> Tensor:
    """`images` (uint8 [N, H, W, c], c 1 or 3) at image_size x image_size, resized as files are; None: as they are."""
    images = np.ascontiguousarray(images)
    if image_size is None or images.shape[1:3] == (image_size, image_size):
        return torch.from_numpy(images)
    channels = images.shape[3]
    require_memory(len(images) * image_size**2 * channels, f"{what}: {len(images):,} images of {image_size} pixels")
    resized = np.empty((len(images), image_size, image_size, channels), dtype=np.uint8)

    def fill(position: int) -> None:
        image = Image.fromarray(images[position].squeeze(2) if channels == 1 else images[position])
        resized[position] = pixels_of(image, channels, image_size)

    in_parallel(len(images), fill, what)
    return torch.from_numpy(resized)


def in_parallel(count: int, work: Callable[[int], None], what: str) -> None:
    """Calls work(0) ... work(count - 1) on all cores; Pillow lets go of the interpreter while it decodes.

    The exception of the lowest failing chunk is raised, and what has not started by then is not started.
    """

    def run(start: int) -> int:
        stop = min(start + _CHUNK, count)
        for position in range(start, stop):
            work(position)
        return stop - start

    pool = ThreadPoolExecutor(usable_cores())
    try:
        with progress() as bar:
            task = bar.add_task(what, total=count)
            for done in pool.map(run, range(0, count, _CHUNK)):
                bar.advance(task, done)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def corrupt_image_error(what: str, corrupt: Sequence[str]) -> CorruptImageError:
    """The error for `corrupt` ("file: reason" each), which says how to go on without them."""
    return CorruptImageError(
        f"{what}: cannot decode {'; '.join(corrupt[:5])}{' ...' if len(corrupt) > 5 else ''}; mend or remove "
        "the file, or leave corrupt files out with --skip-corrupt (skip_corrupt=True)"
    )


def _first_size(
    files: Sequence[EncodedFile], read: Callable[[int], np.ndarray | None], image_size: int | None, what: str
) -> tuple[int, int, int]:
    """(position, height, width) of the first image that decodes; with `image_size`, nothing needs to be looked at."""
    if image_size is not None:
        return 0, image_size, image_size
    for position in range(len(files)):
        pixels = read(position)
        if pixels is not None:
            return position, *pixels.shape[:2]
    raise DataError(f"{what}: none of the {len(files):,} image files can be decoded")


def usable_cores() -> int:
    """The cores that this process may use, which in a container can be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _FilesPerSecond(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f}/s" if task.speed else "")


def progress() -> Progress:
    """Of images, on standard error; nothing where that is no terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _FilesPerSecond())
    return Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal)
