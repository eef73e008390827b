"""`stl10`: the labelled images of STL-10, in the binary files that its authors publish."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from mixfast.data.download import torchvision_datasets
from mixfast.data.errors import DataError
from mixfast.data.published import STL10_CLASSES
from mixfast.data.torchvision_sets import TorchvisionSet

FOLDER = "stl10_binary"
SIDE = 96
_BYTES_AN_IMAGE = 3 * SIDE**2


def _read(location: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """The split's two files. Not by torchvision, which would want the 2.6 GB of unlabelled images beside them.

    An image is its red, green and blue plane, each column by column; labels are 1 to 10.
    Raises DataError that names the file if one is cut off or is not the published one.
    """
    images_file, labels_file = (location / FOLDER / f"{split}_{part}.bin" for part in "Xy")
    images, labels = (np.fromfile(file, dtype=np.uint8) for file in (images_file, labels_file))
    if len(images) != _BYTES_AN_IMAGE * len(labels):
        raise DataError(
            f"stl10: {images_file} has {len(images):,} bytes, expected {_BYTES_AN_IMAGE:,} for each of the "
            f"{len(labels):,} labels in {labels_file}: one of them is incomplete"
        )
    for file, content in ((images_file, images), (labels_file, labels)):
        _require_published(file, content)
    columns = images.reshape(-1, 3, SIDE, SIDE)  # [N, c, x, y]
    return columns.transpose(0, 3, 2, 1), labels.astype(np.int64) - 1


def _require_published(file: Path, content: np.ndarray) -> None:
    kind = torchvision_datasets().STL10
    expected = dict([*kind.train_list, *kind.test_list])[file.name]
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != expected:
        raise DataError(f"stl10: {file} is damaged: its MD5 is {found}, that of the published file {expected}")


STL10 = TorchvisionSet(
    name="stl10",
    kind="STL10",
    classes=STL10_CLASSES,
    files={split: (f"{FOLDER}/{split}_X.bin", f"{FOLDER}/{split}_y.bin") for split in ("train", "test")},
    archive=f"stl10_binary.tar.gz, or the folder {FOLDER} in it,",
    read=_read,
)
