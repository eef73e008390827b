"""`fashion-mnist`: from Debian's package dataset-fashion-mnist where it is installed, else downloaded."""

from __future__ import annotations

import gzip
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mixfast.data.decode import resize_arrays
from mixfast.data.download import download
from mixfast.data.errors import DataError
from mixfast.data.paths import stamp_files
from mixfast.data.published import FASHION_MNIST_CLASSES
from mixfast.data.source import Decoded, DecodeOptions, RawSplit, check_split

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
_PREFIX = {"train": "train", "test": "t10k"}


@dataclass(frozen=True)
class FashionMnist:
    """28 x 28 grey images, 10 classes, in the IDX files that the authors publish, compressed or not.

    Looked for in ROOT, ROOT/fashion-mnist, ROOT/FashionMNIST/raw (where torchvision puts it) and Debian's folder.
    """

    name: str = "fashion-mnist"

    def split_names(self, root: Path) -> tuple[str, ...]:
        return ("train", "test")

    def open(self, split: str, root: Path) -> RawSplit:
        check_split(self.name, split, self.split_names(root))
        images_file, labels_file = _find(split, root) or self._download(split, root)

        def decode(options: DecodeOptions) -> Decoded:
            images, labels = read_idx(images_file, dimensions=3), read_idx(labels_file, dimensions=1)
            if len(images) != len(labels):
                raise DataError(f"{images_file} holds {len(images)} images, {labels_file} {len(labels)} labels")
            pixels = resize_arrays(images.reshape(*images.shape, 1), options.image_size, f"{self.name} ({split})")
            return Decoded(pixels, torch.from_numpy(labels.astype(np.int64)))

        location = images_file.parent
        stamps = stamp_files((images_file, labels_file), location)
        return RawSplit(self.name, split, location, FASHION_MNIST_CLASSES, stamps, statistics=None, decode=decode)

    def _download(self, split: str, root: Path) -> tuple[Path, Path]:
        by_hand = f"Install Debian's package dataset-fashion-mnist, or put the four .gz files into {root / self.name}"
        download("FashionMNIST", root, self.name, by_hand)
        found = _find(split, root)
        if found is None:
            raise FileNotFoundError(f"{self.name}: torchvision left no files for {split!r} in {root}. {by_hand}")
        return found


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


def _find(split: str, root: Path) -> tuple[Path, Path] | None:
    """(images, labels) of the split, from the first folder that has both."""
    for folder in (root, root / "fashion-mnist", root / "FashionMNIST" / "raw", DEBIAN_FOLDER):
        for suffix in ("", ".gz"):
            images = folder / f"{_PREFIX[split]}-images-idx3-ubyte{suffix}"
            labels = folder / f"{_PREFIX[split]}-labels-idx1-ubyte{suffix}"
            if images.is_file() and labels.is_file():
                return images, labels
    return None
