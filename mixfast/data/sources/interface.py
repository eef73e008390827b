"""What a training step asks a data set for, and what it gets: the interface that all sources share.

Which images a step takes is planned ahead (`sampler.EpochPlan`) and everything random is drawn from seed and step, so a
source has nothing to decide and no state: it is told which images are wanted and delivers their pixels, in that order.

Shapes: n images wanted, c channels, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from mixfast.data.regions import Region


class Wanted(NamedTuple):
    """One image that a source is asked for. position: in its list of files. region: that alone is to be decoded, and
    resized to the images' size; None: the whole image."""

    position: int
    region: Region | None = None


@dataclass(frozen=True, eq=False)
class Request:
    """What one step wants, on the host.

    index    int64 [n], indices into the data set: increasing and none twice, unless regions of them are wanted
    regions  int64 [n, 4], each in the order of `Region`; None: the images are wanted whole
    """

    index: Tensor
    regions: Tensor | None = None

    def each(self) -> list[Wanted]:
        """The same one by one, as sources are asked."""
        if self.regions is None:
            return [Wanted(position) for position in self.index.tolist()]
        asked = zip(self.index.tolist(), self.regions.tolist(), strict=True)
        return [Wanted(position, Region(*region)) for position, region in asked]


Requests = Callable[[int], Request]
"""What step number so-and-so wants."""


@dataclass(frozen=True, eq=False)
class Pixels:
    """Decoded images on the training device.

    images  uint8 [n, c, H, W] in channels-last memory
    index   int64 [n], increasing: which images of the data set these are; None: all of them, in their order, or where
            regions were wanted, those
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

    def stream(self, requests: Iterator[Sequence[Wanted]], largest: int) -> Iterator[Tensor]:
        """uint8 [n, H, W, c] for each of `requests`, in their order; what was begun ends when the iterator is closed.

        requests ask for at most `largest` images each, all whole or all by their regions; they are looked at some steps
        ahead.

        Raises CorruptImageError for a file that cannot be decoded, DataError for one that cannot be read or has another
        size than the rest; the message names the file.
        """

    def describe(self) -> str:
        """One line for people: what decodes, where, on how many threads or processes."""
