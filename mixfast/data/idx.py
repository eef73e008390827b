"""IDX, the format of MNIST and of the sets that take its place: one file of images, one of labels, for each split."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mixfast.data.download import download
from mixfast.data.errors import DataError

_PREFIX = {"train": "train", "test": "t10k"}


def locate_idx(
    split: str, folders: Sequence[Path], *, kind: str, root: Path, name: str, by_hand: str
) -> tuple[Path, Path]:
    """(images, labels) of the split, compressed or not, from the first of `folders` that has both. Where none has,
    `torchvision.datasets.<kind>` downloads them into `root`, below which one of `folders` is its own.

    Raises FileNotFoundError as `download` does, which `name` and `by_hand` are for.
    """
    found = _find(split, folders)
    if found is None:
        download(kind, root, name, by_hand)
        found = _find(split, folders)
    if found is None:
        raise FileNotFoundError(f"{name}: torchvision left no files for {split!r} in {root}. {by_hand}")
    return found


def read_labelled(images_file: Path, labels_file: Path) -> tuple[np.ndarray, np.ndarray]:
    """(images uint8 [N, H, W], labels int64 [N]). Raises DataError as `read_idx` does, or if they are not equally many."""
    images, labels = read_idx(images_file, dimensions=3), read_idx(labels_file, dimensions=1)
    if len(images) != len(labels):
        raise DataError(f"{images_file} holds {len(images)} images, {labels_file} {len(labels)} labels")
    return images, labels.astype(np.int64)


def read_idx(file: Path, *, dimensions: int) -> np.ndarray:
    """An IDX file of bytes, gzip-compressed if its name ends in .gz: uint8 with that many dimensions.

    The format is two zero bytes, the type (8: unsigned bytes), the number of dimensions, their sizes as big-endian
    32-bit integers, then the values. Raises DataError that names the file if it is anything else.
    """
    try:
        content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        magic, *shape = struct.unpack_from(f">{1 + dimensions}I", content)
    except (gzip.BadGzipFile, EOFError, zlib.error, struct.error) as error:
        raise DataError(f"{file}: not a whole IDX file: {error}") from error
    header = 4 * (1 + dimensions)
    if magic != 0x800 + dimensions or len(content) != header + int(np.prod(shape)):
        raise DataError(
            f"{file}: expected {dimensions}-dimensional unsigned bytes (magic {0x800 + dimensions}) and "
            f"{header} + {'*'.join(map(str, shape))} bytes, got magic {magic} and {len(content)} bytes"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape).copy()


def _find(split: str, folders: Sequence[Path]) -> tuple[Path, Path] | None:
    for folder in folders:
        for suffix in ("", ".gz"):
            images = folder / f"{_PREFIX[split]}-images-idx3-ubyte{suffix}"
            labels = folder / f"{_PREFIX[split]}-labels-idx1-ubyte{suffix}"
            if images.is_file() and labels.is_file():
                return images, labels
    return None
