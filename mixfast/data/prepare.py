"""`mixfast data prepare NAME --from DIR`: decode once, ahead of training, and say what is there."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from mixfast.data.loading import LoadedSplit, SplitLoader
from mixfast.data.memory import format_bytes
from mixfast.data.published import count_beside_published
from mixfast.data.source import distinct_splits


@dataclass(frozen=True)
class PreparedSplit:
    """What preparing one split found. seconds: wall-clock time of finding, decoding (or loading) and caching it."""

    loaded: LoadedSplit
    seconds: float

    def describe(self) -> str:
        """One line for people: counts, shape, speed, and where the cache lies."""
        image_set = self.loaded.image_set
        per_class = torch.bincount(image_set.labels, minlength=image_set.num_classes)
        height, width = image_set.image_shape
        published = count_beside_published(image_set.name, image_set.split, len(image_set))
        return (
            f"{image_set.name} ({image_set.split}): {len(image_set):,} images{published}, "
            f"{image_set.num_classes} classes of {int(per_class.min()):,} to {int(per_class.max()):,}, "
            f"{width}x{height}x{image_set.channels}, {format_bytes(image_set.images.numel())}; "
            f"{self._skipped()}{self._work()}; {self._place()}"
        )

    def _skipped(self) -> str:
        skipped = self.loaded.image_set.skipped
        return f"{skipped:,} corrupt left out; " if skipped else ""

    def _work(self) -> str:
        verb = "decoded" if self.loaded.decoded_now else "already decoded, loaded"
        rate = len(self.loaded.image_set) / max(self.seconds, 1e-9)
        return f"{verb} in {self.seconds:.1f} s ({rate:,.0f} images/s)"

    def _place(self) -> str:
        file = self.loaded.cache_file
        return f"cache {file}" if file else "read from its source each time, no cache"


def prepare(
    name: str,
    *,
    root: str | Path | None = None,
    cache_dir: str | Path | None = None,
    image_size: int | None = None,
    skip_corrupt: bool = False,
) -> Iterator[PreparedSplit]:
    """Loads every split of `name`, one after the other, so that each lies decoded in the cache; yields what it found.

    Arguments and errors as in `load_split`, except that a cache that cannot be written is CacheWriteError: here it is
    what was asked for. Training must then be given the same root and image size to find the cache.
    """
    loader = SplitLoader(
        name,
        root=root,
        cache_dir=cache_dir,
        image_size=image_size,
        skip_corrupt=skip_corrupt,
        require_cache=True,
    )
    for split, _ in distinct_splits(loader.source, loader.root):
        start = time.perf_counter()
        loaded = loader.load(split)
        yield PreparedSplit(loaded, time.perf_counter() - start)
