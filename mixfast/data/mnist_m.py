"""`mnist-m`: the digits of MNIST over pieces of photographs, built from MNIST and BSDS500.

Ganin et al., "Domain-Adversarial Training of Neural Networks" (JMLR 2016): |patch - digit| in every pixel
and channel, for a patch of a photograph at random. Which patch that is, the paper leaves open; here it is drawn once and
for all, so that everyone who has both data sets has the same MNIST-M. It is not the authors' own file, pixel by pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mixfast.data.decode import in_parallel, resize_arrays
from mixfast.data.errors import DataError
from mixfast.data.idx import locate_idx, read_labelled
from mixfast.data.memory import require_memory
from mixfast.data.paths import contents, images_below, stamp_files
from mixfast.data.pixels import UndecodableError, read_pixels
from mixfast.data.randomness import random_keys
from mixfast.data.source import Decoded, DecodeOptions, RawSplit, check_split

# Photographs of BSDS500's own splits. Ours share none, so that no background of a test image was trained on.
PHOTOGRAPHS = {"train": 200, "val": 100, "test": 200}
_BACKGROUNDS = {"train": ("train", "val"), "test": ("test",)}
_SEED = 500
_STREAM = {"train": 0, "test": 1}


@dataclass(frozen=True)
class MnistM:
    """28 x 28 RGB images of ten digits, 60,000 to train and 10,000 to test. Its mean and deviation are computed.

    MNIST's IDX files are looked for in ROOT/mnist and ROOT/MNIST/raw (where torchvision puts them); not in ROOT itself, where
    Fashion-MNIST's may lie, which have the same names. BSDS500's data/images: in ROOT/BSDS500, ROOT/BSR/BSDS500.
    """

    name: str = "mnist-m"

    def split_names(self, root: Path) -> tuple[str, ...]:
        return ("train", "test")

    def open(self, split: str, root: Path) -> RawSplit:
        check_split(self.name, split, self.split_names(root))
        photographs = self._photographs(split, root)
        digits = self._digits(split, root)

        def decode(options: DecodeOptions) -> Decoded:
            what = f"{self.name} ({split})"
            images, labels = read_labelled(*digits)
            require_memory(3 * images.size, f"{what}: {len(images):,} images")
            backgrounds = _read_all(photographs, images.shape[1:], what)
            blended = blend(images, backgrounds, patch_keys(split, len(images)), what)
            return Decoded(resize_arrays(blended, options.image_size, what), torch.from_numpy(labels))

        classes = tuple(str(digit) for digit in range(10))
        stamps = stamp_files((*digits, *photographs), root)
        return RawSplit(self.name, split, root, classes, stamps, statistics=None, decode=decode)

    def _digits(self, split: str, root: Path) -> tuple[Path, Path]:
        folders = (root / "mnist", root / "MNIST" / "raw")
        by_hand = f"Put the four .gz files of MNIST into {' or '.join(map(str, folders))}"
        return locate_idx(split, folders, kind="MNIST", root=root, name=f"{self.name}: MNIST", by_hand=by_hand)

    def _photographs(self, split: str, root: Path) -> tuple[str, ...]:
        folder = self._locate_photographs(root)
        found: list[str] = []
        for part in _BACKGROUNDS[split]:
            files = images_below(folder / part)
            if len(files) != PHOTOGRAPHS[part]:
                raise DataError(
                    f"{self.name}: {folder / part} has {len(files)} photographs, BSDS500 has {PHOTOGRAPHS[part]} there; "
                    "with others the images would not be those of everyone else"
                )
            found += files
        return tuple(found)

    def _locate_photographs(self, root: Path) -> Path:
        places = [root / folder / "data" / "images" for folder in ("BSDS500", "BSR/BSDS500")]
        for place in places:
            if place.is_dir():
                return place
        raise FileNotFoundError(
            f"{self.name}: BSDS500 not found, no folder {' or '.join(map(str, places))}; {contents(root)}. Unpack "
            "BSR_bsds500.tgz there, or name the folder that has it with --data or $MIXFAST_DATA"
        )


def patch_keys(split: str, count: int) -> np.ndarray:
    """What `blend` chooses the patches of a split's first `count` digits by: int64 [count, 3]."""
    return random_keys((count, 3), seed=_SEED, stream=_STREAM[split]).numpy()


def blend(digits_NHW: np.ndarray, photographs: Sequence[np.ndarray], keys_N3: np.ndarray, what: str) -> np.ndarray:
    """|patch - digit| as uint8 [N, H, W, 3]: a digit's three numbers, which are not negative, choose its photograph (uint8
    [h, w, 3], at least as large as a digit) and the patch's top and left. `what` is for the progress bar."""
    height, width = digits_NHW.shape[1:]
    blended = np.empty((*digits_NHW.shape, 3), dtype=np.uint8)

    def fill(position: int) -> None:
        chosen, top, left = keys_N3[position]
        photograph = photographs[chosen % len(photographs)]
        top %= photograph.shape[0] - height + 1
        left %= photograph.shape[1] - width + 1
        patch = photograph[top : top + height, left : left + width].astype(np.int16)
        blended[position] = np.abs(patch - digits_NHW[position, :, :, None])

    in_parallel(len(digits_NHW), fill, what)
    return blended


def _read_all(files: Sequence[str], least: tuple[int, int], what: str) -> list[np.ndarray]:
    """uint8 [h, w, 3] of each. Raises DataError that names the file if it is no photograph or is smaller than `least`."""
    photographs: list[np.ndarray] = [np.empty(0)] * len(files)

    def read(position: int) -> None:
        file = files[position]
        try:
            pixels = read_pixels(file, 3, None)
        except UndecodableError as error:
            raise DataError(f"{what}: cannot decode {file}: {error}") from error
        if pixels.shape[0] < least[0] or pixels.shape[1] < least[1]:
            raise DataError(f"{what}: {file} is {pixels.shape[1]}x{pixels.shape[0]}, smaller than a digit")
        photographs[position] = pixels

    in_parallel(len(files), read, f"{what}: photographs")
    return photographs
