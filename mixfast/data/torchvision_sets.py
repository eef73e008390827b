"""`cifar10`, `cifar100` and `svhn`, read, and where they are absent downloaded, by torchvision."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mixfast.data import published
from mixfast.data.decode import resize_arrays
from mixfast.data.download import download, open_downloaded
from mixfast.data.paths import stamp_files
from mixfast.data.source import Decoded, DecodeOptions, RawSplit, check_split

# (root, split) -> (images uint8 [N, H, W, 3], labels [N])
Reader = Callable[[Path, str], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class TorchvisionSet:
    """A data set in the layout that torchvision downloads: `files` of each split, below ROOT or below ROOT/name."""

    name: str
    kind: str
    classes: tuple[str, ...]
    files: Mapping[str, tuple[str, ...]]
    archive: str
    read: Reader

    def split_names(self, root: Path) -> tuple[str, ...]:
        return tuple(self.files)

    def open(self, split: str, root: Path) -> RawSplit:
        check_split(self.name, split, self.split_names(root))
        location = self._locate(split, root)

        def decode(options: DecodeOptions) -> Decoded:
            images, labels = self.read(location, split)
            pixels = resize_arrays(images, options.image_size, f"{self.name} ({split})")
            return Decoded(pixels, torch.from_numpy(labels.astype(np.int64)))

        stamps = stamp_files([location / file for file in self.files[split]], location)
        return RawSplit(self.name, split, location, self.classes, stamps, published.STATISTICS.get(self.name), decode)

    def _locate(self, split: str, root: Path) -> Path:
        for folder in (root, root / self.name):
            if all((folder / file).is_file() for file in self.files[split]):
                return folder
        download(self.kind, root, self.name, f"Put {self.archive} into {root}", **_which(self.kind, split))
        return root


def _which(kind: str, split: str) -> dict[str, str | bool]:
    """How torchvision's class is told the split."""
    return {"train": split == "train"} if kind.startswith("CIFAR") else {"split": split}


def _cifar_reader(kind: str, name: str) -> Reader:
    def read(root: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
        raw = open_downloaded(kind, root, name, **_which(kind, split))
        return raw.data, np.array(raw.targets)

    return read


def _read_svhn(root: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    raw = open_downloaded("SVHN", root, "svhn", **_which("SVHN", split))
    return raw.data.transpose(0, 2, 3, 1), raw.labels


CIFAR10 = TorchvisionSet(
    name="cifar10",
    kind="CIFAR10",
    classes=published.CIFAR10_CLASSES,
    files={
        "train": tuple(f"cifar-10-batches-py/data_batch_{number}" for number in range(1, 6)),
        "test": ("cifar-10-batches-py/test_batch",),
    },
    archive="cifar-10-python.tar.gz, or the folder cifar-10-batches-py in it,",
    read=_cifar_reader("CIFAR10", "cifar10"),
)

CIFAR100 = TorchvisionSet(
    name="cifar100",
    kind="CIFAR100",
    classes=published.CIFAR100_CLASSES,
    files={"train": ("cifar-100-python/train",), "test": ("cifar-100-python/test",)},
    archive="cifar-100-python.tar.gz, or the folder cifar-100-python in it,",
    read=_cifar_reader("CIFAR100", "cifar100"),
)

SVHN = TorchvisionSet(
    name="svhn",
    kind="SVHN",
    classes=tuple(str(digit) for digit in range(10)),
    files={"train": ("train_32x32.mat",), "test": ("test_32x32.mat",)},
    archive="train_32x32.mat and test_32x32.mat",
    read=_read_svhn,
)
