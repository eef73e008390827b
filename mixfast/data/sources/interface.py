"""What a training step asks a data set for, and what it gets: the interface that all sources share.

Which images a step takes is planned ahead (`sampler.EpochPlan`) and everything random is drawn from seed and step, so a
source has nothing to decide and no state: it is told which images are wanted and delivers their pixels, in that order.

Shapes: n images wanted, c channels, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Request = Callable[[int], Tensor]
"""What step number so-and-so wants: int64 [n] on the host, indices into the data set, increasing, none twice."""


@dataclass(frozen=True, eq=False)
class Pixels:
    """Decoded images on the training device.

    images  uint8 [n, c, H, W] in channels-last memory
    index   int64 [n], increasing: which images of the data set these are; None: all of them, in their order
    """

    images: Tensor
    index: Tensor | None = None

    def locate(self, index: Tensor) -> Tensor:
        """Where in `images` the data set's images at `index` (int64, any shape, all of them wanted) lie."""
        return index if self.index is None else torch.searchsorted(self.index, index)


@dataclass(frozen=True)
class PixelFormat:
    """What every image is decoded to. image_size: resized to it as `pixels.resize_and_crop` does; None: as it is, and
    it must then have this size already. model: the file that size was read from, for messages."""

    height: int
    width: int
    channels: int
    image_size: int | None
    model: str = ""


class PixelSource(Protocol):
    """Decodes files step by step, ahead of those who consume."""

    def stream(self, requests: Iterator[Sequence[int]], largest: int) -> Iterator[Tensor]:
        """uint8 [n, H, W, c] for each of `requests`, in their order; what was begun ends when the iterator is closed.

        requests are positions in the list of files, at most `largest` each; they are looked at some steps ahead.

        Raises CorruptImageError for a file that cannot be decoded, DataError for one that cannot be read or has another
        size than the rest; the message names the file.
        """

    def describe(self) -> str:
        """One line for people: what decodes, where, on how many threads or processes."""
