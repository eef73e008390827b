"""`StreamedSet`: one split of a data set that is decoded while it is used; the counterpart of `ImageSet`."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from mixfast.data.encoded import EncodedFile
from mixfast.data.image_set import check_labels, check_statistics
from mixfast.data.sources.interface import PixelFormat, Pixels, PixelSource, Request, Requests, Wanted
from mixfast.data.sources.kinds import SourceOptions, make_source


@dataclass(frozen=True, eq=False)
class StreamedSet:
    """Labels and files of a split; the fields that `ImageSet` has too mean the same.

    files    one image each, in the order of labels
    form     what each is decoded to
    options  which source decodes it
    device   where pixels and labels are wanted
    """

    files: tuple[EncodedFile, ...]
    labels: Tensor
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    name: str
    split: str
    form: PixelFormat
    options: SourceOptions
    device: torch.device = torch.device("cpu")
    skipped: int = 0
    view_size: int | None = None

    def __post_init__(self) -> None:
        where = f"{self.name} ({self.split})"
        check_labels(self.labels, len(self.files), self.classes, where)
        check_statistics(self.mean, self.std, self.channels, where)

    def __len__(self) -> int:
        return len(self.files)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def channels(self) -> int:
        return self.form.channels

    @property
    def image_shape(self) -> tuple[int, int]:
        """(H, W) in pixels of what a network sees."""
        return (self.view_size, self.view_size) if self.view_size else (self.form.height, self.form.width)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, c, H, W)."""
        return len(self), self.channels, self.form.height, self.form.width

    @cached_property
    def source(self) -> PixelSource:
        """Made when it is first asked for: one that decodes nothing costs nothing."""
        return make_source(self.options, self.files, self.form, self.device, f"{self.name} ({self.split})")

    def stream(self, requests: Requests, steps: range, largest: int) -> Iterator[Pixels]:
        """The pixels of each of `steps`, in order, decoded ahead; see `PixelSource.stream` for the errors."""
        asked: deque[Request] = deque()

        def one_by_one() -> Iterator[list[Wanted]]:
            for step in steps:
                asked.append(requests(step))
                yield asked[-1].each()

        with closing(self.source.stream(one_by_one(), largest)) as decoded:
            for images_nHWc in decoded:
                request = asked.popleft()
                index = self._uploaded(request.index) if request.regions is None else None
                yield Pixels(self._uploaded(images_nHWc).permute(0, 3, 1, 2), index)

    def subset(self, index: Tensor, split: str) -> StreamedSet:
        """The images at `index` (int64 [n]) as a set of its own, called `split`."""
        files = tuple(self.files[position] for position in index.tolist())
        return dataclasses.replace(self, files=files, labels=self.labels[index], split=split)

    def to(self, device: torch.device | str) -> StreamedSet:
        """The same set with labels and pixels on `device`."""
        return dataclasses.replace(self, labels=self.labels.to(device), device=torch.device(device))

    def identity(self) -> bytes:
        """What tells this set's images from others: here the files' names, since no pixel has been seen; without what
        all of them begin with, so that a data set may move."""
        names = [str(file) for file in self.files]
        same = len(os.path.commonprefix(names))
        digest = hashlib.sha256()
        for name in names:
            digest.update(name[same:].encode(errors="surrogateescape") + b"\0")
        return digest.digest()

    def _uploaded(self, tensor: Tensor) -> Tensor:
        """`tensor` on the training device; from pinned memory, so that the host does not wait for the copy."""
        if tensor.device == self.device or self.device.type == "cpu":
            return tensor
        pinned = tensor.pin_memory() if self.device.type == "cuda" and tensor.device.type == "cpu" else tensor
        return pinned.to(self.device, non_blocking=True)
