"""What a data set must offer, and the form in which one of its splits is offered before anything is decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from mixfast.data.decode import decode_files
from mixfast.data.encoded import EncodedFile, path_of
from mixfast.data.errors import DataError, unknown_name
from mixfast.data.paths import FileStamp, stamp_files
from mixfast.data.statistics import Statistics

CORRUPT_LEFT_OUT = ", corrupt files left out"


@dataclass(frozen=True)
class DecodeOptions:
    """image_size: pixels squared, or None as they are. statistics: the training split's, None if still unknown, which
    lets the split decide its number of channels."""

    image_size: int | None
    statistics: Statistics | None
    skip_corrupt: bool


@dataclass(frozen=True)
class Decoded:
    """images uint8 [N, H, W, c]; labels int64 [N]; skipped: "file: reason" of every corrupt file left out."""

    images: Tensor
    labels: Tensor
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True)
class RawSplit:
    """One split, found and listed but not decoded.

    split       what it really is: "val" where "test" had to fall back to it
    location    the folder it lies in
    files       everything that the decoded images depend on; empty if decoding costs nothing worth a cache
    statistics  the published ones; None: the training split's, computed from its pixels
    decode      does the work; raises what `decode_files` does
    images      the image files, one each, for those who decode them while training; empty where images lie in arrays
    labels      int64 [N], theirs
    """

    name: str
    split: str
    location: Path
    classes: tuple[str, ...]
    files: tuple[FileStamp, ...]
    statistics: Statistics | None
    decode: Callable[[DecodeOptions], Decoded] = field(repr=False)
    images: tuple[EncodedFile, ...] = field(default=(), repr=False)
    labels: Tensor | None = field(default=None, repr=False)

    def require_every_class(self, labels_N: Tensor, but: str = "") -> None:
        """Raises DataError, naming the class, unless every class has one of the images labelled `labels_N`."""
        empty = (torch.bincount(labels_N, minlength=len(self.classes)) == 0).nonzero().flatten().tolist()
        if empty:
            names = ", ".join(repr(self.classes[label]) for label in empty[:5]) + (" ..." if len(empty) > 5 else "")
            raise DataError(
                f"{self.name} ({self.split}) below {self.location}{but}: no images of "
                f"{'class' if len(empty) == 1 else 'classes'} {names}"
            )


class Source(Protocol):
    """A data set. `root` is the folder that holds data sets."""

    name: str

    def split_names(self, root: Path) -> tuple[str, ...]:
        """The names that `open` takes."""

    def open(self, split: str, root: Path) -> RawSplit:
        """Finds and lists one split. Raises FileNotFoundError or DataError saying what was looked for and where."""


def distinct_splits(source: Source, root: Path) -> Iterator[tuple[str, RawSplit]]:
    """Each split that `source` has, with the name it was opened by: train, test and val, but "test" and "val" once where they
    are the same. Opened one after the other, as they are asked for."""
    known, seen = source.split_names(root), set()
    for split in (split for split in ("train", "test", "val") if split in known):
        raw = source.open(split, root)
        if raw.split not in seen:
            seen.add(raw.split)
            yield split, raw


def check_split(name: str, split: str, known: Sequence[str]) -> None:
    """Raises DataError unless `split` is one of `known`."""
    if split not in known:
        raise DataError(f"{name}: {unknown_name('split', split, known)}")


def split_of_files(
    *,
    name: str,
    split: str,
    location: Path,
    classes: tuple[str, ...],
    images: Sequence[EncodedFile],
    labels: Sequence[int],
    statistics: Statistics | None = None,
    also_read: Sequence[Path] = (),
) -> RawSplit:
    """A split made of image files, `labels[i]` being the class of `images[i]`.

    also_read: files that are no images, but on which classes or labels depend.
    Raises DataError that names the class if one has no image, now or after corrupt files were left out.
    """
    what = f"{name} ({split})"
    labels_N = torch.tensor(labels, dtype=torch.int64)

    def decode(options: DecodeOptions) -> Decoded:
        channels = options.statistics.channels if options.statistics else None
        decoded = decode_files(
            images, channels=channels, image_size=options.image_size, skip_corrupt=options.skip_corrupt, what=what
        )
        kept_labels = labels_N[torch.tensor(decoded.kept, dtype=torch.int64)]
        raw.require_every_class(kept_labels, CORRUPT_LEFT_OUT)
        return Decoded(decoded.images, kept_labels, decoded.skipped)

    stamps = stamp_files((*also_read, *dict.fromkeys(map(path_of, images))), location)
    raw = RawSplit(name, split, location, classes, stamps, statistics, decode, tuple(images), labels_N)
    raw.require_every_class(labels_N)
    return raw
