"""`fashion-mnist`: from Debian's package dataset-fashion-mnist where it is installed, else downloaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from mixfast.data.decode import resize_arrays
from mixfast.data.idx import locate_idx, read_labelled
from mixfast.data.paths import stamp_files
from mixfast.data.published import FASHION_MNIST_CLASSES
from mixfast.data.source import Decoded, DecodeOptions, RawSplit, check_split

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")


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
        files = self._locate(split, root)

        def decode(options: DecodeOptions) -> Decoded:
            images, labels = read_labelled(*files)
            pixels = resize_arrays(images[..., None], options.image_size, f"{self.name} ({split})")
            return Decoded(pixels, torch.from_numpy(labels))

        location = files[0].parent
        stamps = stamp_files(files, location)
        return RawSplit(self.name, split, location, FASHION_MNIST_CLASSES, stamps, statistics=None, decode=decode)

    def _locate(self, split: str, root: Path) -> tuple[Path, Path]:
        return locate_idx(
            split,
            (root, root / self.name, root / "FashionMNIST" / "raw", DEBIAN_FOLDER),
            kind="FashionMNIST",
            root=root,
            name=self.name,
            by_hand=f"Install Debian's package dataset-fashion-mnist, or put the four .gz files into {root / self.name}",
        )
