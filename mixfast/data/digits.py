"""`digits`: the 8 x 8 grey digits that come with scikit-learn; nothing to download."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mixfast.data.decode import resize_arrays
from mixfast.data.source import Decoded, DecodeOptions, RawSplit, check_split

CLASSES = tuple(str(digit) for digit in range(10))


@dataclass(frozen=True)
class Digits:
    """1,797 images, 1 channel, 10 classes.

    Values 0..16 become 0..255 as floor(255 * v / 16 + 1/2): to nearest, the one tie (8) upwards, to 128. There is no
    official split; this one is fixed and stratified: of each class the 3rd, 6th, 9th, ... image is test (596 images),
    the others train (1,201).
    """

    name: str = "digits"

    def split_names(self, root: Path) -> tuple[str, ...]:
        return ("train", "test")

    def open(self, split: str, root: Path) -> RawSplit:
        check_split(self.name, split, self.split_names(root))

        def decode(options: DecodeOptions) -> Decoded:
            images, labels = _read()
            chosen = _is_test(labels) == (split == "test")
            pixels = resize_arrays(images[chosen], options.image_size, self.name)
            return Decoded(pixels, torch.from_numpy(labels[chosen]))

        return RawSplit(self.name, split, root, CLASSES, files=(), statistics=None, decode=decode)


def _read() -> tuple[np.ndarray, np.ndarray]:
    """(images uint8 [1797, 8, 8, 1], labels int64 [1797])."""
    from sklearn.datasets import load_digits  # here: importing it takes a second that other data sets need not wait

    raw = load_digits()
    sixteenths = raw.images.astype(np.int64).reshape(-1, 8, 8, 1)  # whole numbers stored as floats
    return ((255 * sixteenths * 2 + 16) // 32).astype(np.uint8), raw.target.astype(np.int64)


def _is_test(labels: np.ndarray) -> np.ndarray:
    """bool [N]: whether the image is the 3rd, 6th, 9th, ... of its class."""
    number_in_class = np.empty(len(labels), dtype=np.int64)
    for label in range(len(CLASSES)):
        members = np.flatnonzero(labels == label)
        number_in_class[members] = np.arange(len(members))
    return number_in_class % 3 == 2
