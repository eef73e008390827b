"""`ImageSet`: one split of a data set, held in memory as a single uint8 tensor.

Shapes: N images, c channels, H x W pixels, K classes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mixfast.data.errors import DataError
from mixfast.data.sources.interface import Pixels, Requests


@dataclass(frozen=True, eq=False)
class ImageSet:
    """A checked, memory-resident split: everything a training step gathers its batches from, by index.

    images   uint8 [N, c, H, W] in channels-last memory (a pixel's channels are adjacent)
    labels   int64 [N], each in 0..K-1
    classes  the K class names, in label order
    mean     c numbers in units of 0..1, with `std` what inputs are normalised by; those of the *training* split,
    std      whichever split this is
    name     the name the set was asked for by, e.g. "cifar10" or "folder:pets"
    split    what it was really read from: "train", "test", "val", "validation" (held out of train), ...
    skipped  how many corrupt files were left out
    view_size  side in pixels of what a network sees of each image, where that is cut out of more; None: the whole image

    Raises DataError (a ValueError) that names the field if any of this does not hold.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    name: str
    split: str
    skipped: int = 0
    view_size: int | None = None

    def __post_init__(self) -> None:
        where = f"{self.name} ({self.split})"
        _check_images(self.images, where)
        check_labels(self.labels, len(self.images), self.classes, where)
        check_statistics(self.mean, self.std, self.images.shape[1], where)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def channels(self) -> int:
        return self.images.shape[1]

    @property
    def image_shape(self) -> tuple[int, int]:
        """(H, W) in pixels of what a network sees."""
        return (self.view_size, self.view_size) if self.view_size else (self.images.shape[2], self.images.shape[3])

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, c, H, W)."""
        return tuple(self.images.shape)

    @property
    def device(self) -> torch.device:
        return self.images.device

    def stream(self, requests: Requests, steps: range, largest: int) -> Iterator[Pixels]:
        """The pixels of each of `steps`: always the whole set, so that nobody needs to be asked what is wanted."""
        for _ in steps:
            yield Pixels(self.images)

    def identity(self) -> bytes:
        """What tells this set's images from others: each image's sum of pixels, which changes with any one of them."""
        return self.images.sum((1, 2, 3), dtype=torch.int64).cpu().numpy().tobytes()

    def gather(self, index: Tensor) -> Tensor:
        """The images at `index` (int64 [n], on the images' device): uint8 [n, c, H, W], channels-last like the whole.

        Plain indexing of a channels-last tensor does not promise to keep the layout; gathering whole rows of the
        [N, H, W, c] view does, and each row is one contiguous copy.
        """
        return self.images.permute(0, 2, 3, 1).index_select(0, index).permute(0, 3, 1, 2)

    def subset(self, index: Tensor, split: str) -> ImageSet:
        """The images at `index` (int64 [n]) as a set of its own, called `split`."""
        return dataclasses.replace(self, images=self.gather(index), labels=self.labels[index], split=split)

    def to(self, device: torch.device | str) -> ImageSet:
        """The same set with images and labels on `device`."""
        return dataclasses.replace(self, images=self.images.to(device), labels=self.labels.to(device))


def _check_images(images: Tensor, where: str) -> None:
    if images.dtype != torch.uint8 or images.dim() != 4:
        raise DataError(f"{where}: images must be uint8 [N, c, H, W], got {images.dtype} {list(images.shape)}")
    if 0 in images.shape:
        raise DataError(f"{where}: images has an empty dimension, {list(images.shape)}")
    if not images.is_contiguous(memory_format=torch.channels_last):
        raise DataError(f"{where}: images must be in channels-last memory, got strides {images.stride()}")


def check_labels(labels: Tensor, count: int, classes: tuple[str, ...], where: str) -> None:
    if labels.dtype != torch.int64 or labels.shape != (count,):
        raise DataError(
            f"{where}: labels must be int64 [{count}], one per image, got {labels.dtype} {list(labels.shape)}"
        )
    outside = (labels < 0) | (labels >= len(classes))
    if outside.any():
        position = int(outside.nonzero()[0])
        raise DataError(
            f"{where}: label {int(labels[position])} of image {position} is out of range, "
            f"expected 0..{len(classes) - 1} ({len(classes)} classes)"
        )


def check_statistics(mean: tuple[float, ...], std: tuple[float, ...], channels: int, where: str) -> None:
    if len(mean) != channels or len(std) != channels:
        raise DataError(
            f"{where}: mean and std must have one number per channel ({channels}), got {len(mean)} and {len(std)}"
        )
    if not all(math.isfinite(value) for value in (*mean, *std)) or min(std) <= 0:
        raise DataError(f"{where}: mean must be finite and std positive, got mean {mean}, std {std}")
