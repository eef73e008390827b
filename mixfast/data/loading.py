"""From a data set's name to an `ImageSet`: find the split, take it from the cache or decode it and cache it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

from mixfast.data import cache
from mixfast.data.decode import corrupt_image_error
from mixfast.data.download import no_downloads
from mixfast.data.errors import CacheWriteError, DataError, DataWarning
from mixfast.data.image_set import ImageSet
from mixfast.data.paths import cache_folder, data_root
from mixfast.data.registry import find_source
from mixfast.data.source import Decoded, DecodeOptions, RawSplit, Source
from mixfast.data.statistics import Statistics, pixel_statistics

# Statistics of training splits that this process has read, by (fingerprint, skip_corrupt): a test split needs its
# training split's, and where no cache can be written that must not mean decoding the training split a second time.
_training_statistics: dict[tuple[str, bool], Statistics] = {}


@dataclass(frozen=True)
class LoadedSplit:
    """cache_file: where the decoded split lies, None if it is read from its source each time or could not be written.
    decoded_now: whether it was decoded rather than taken from there."""

    image_set: ImageSet
    cache_file: Path | None
    decoded_now: bool


def load_split(
    name: str,
    split: str,
    *,
    root: str | Path | None = None,
    cache_dir: str | Path | None = None,
    image_size: int | None = None,
    skip_corrupt: bool = False,
) -> ImageSet:
    """One split of the data set `name`, in memory.

    name          one of `registry.data_set_names()`, or "folder:DIR"
    split         "train" or "test" (whatever the set holds out: see `ImageSet.split`), or another of `split_names`
    root          the folder that holds data sets; default $MIXFAST_DATA, else mixfast/data in the user's cache folder
    cache_dir     where decoded sets are kept; default $MIXFAST_CACHE, else mixfast in the user's cache folder
    image_size    resize the shorter side to it and crop the centre; default: as the images are
    skip_corrupt  leave out images that cannot be decoded, with a warning that counts and names them

    Raises DataError (a ValueError) for an unknown name or split and for data that cannot be used, FileNotFoundError
    for data that are not there. A cache that cannot be written is a warning (DataWarning), never an error.
    """
    loader = SplitLoader(name, root=root, cache_dir=cache_dir, image_size=image_size, skip_corrupt=skip_corrupt)
    return loader.load(split).image_set


def split_names(name: str, root: str | Path | None = None) -> tuple[str, ...]:
    """The splits of the data set `name` that `load_split` takes. Raises as `load_split` does."""
    return find_source(name).split_names(data_root(root))


def why_unusable(name: str, root: str | Path | None = None) -> str | None:
    """Why the data set `name` cannot be read here now, without downloading anything; None where it can."""
    try:
        with no_downloads():
            find_source(name).open("test", data_root(root))
    except (DataError, OSError) as error:
        return str(error)
    return None


def left_out(raw: RawSplit, skipped: tuple[str, ...]) -> str:
    """The warning about corrupt files that were left out ("file: reason" each)."""
    names = "; ".join(skipped[:5]) + (" ..." if len(skipped) > 5 else "")
    return f"{raw.name} ({raw.split}): left out {len(skipped):,} corrupt images: {names}"


class SplitLoader:
    """Loads splits of one data set. Arguments as in `load_split`; with `require_cache`, a cache that cannot be written
    is CacheWriteError instead of a warning."""

    def __init__(
        self,
        name: str,
        *,
        root: str | Path | None = None,
        cache_dir: str | Path | None = None,
        image_size: int | None = None,
        skip_corrupt: bool = False,
        require_cache: bool = False,
    ) -> None:
        if image_size is not None and image_size < 1:
            raise ValueError(f"image_size is {image_size}, expected at least 1 pixel, or None")
        self.source: Source = find_source(name)
        self.root = data_root(root)
        self.cache_folder = cache_folder(cache_dir)
        self.image_size = image_size
        self.skip_corrupt = skip_corrupt
        self.require_cache = require_cache

    def load(self, split: str) -> LoadedSplit:
        raw = self.source.open(split, self.root)
        options = self._options(raw)
        key = cache.cache_key(raw, options, self.cache_folder)
        entry = cache.load(key) if raw.files else None
        from_cache = entry is not None
        if entry is None:
            entry = self._decode(raw, options)
        self._report_skipped(entry.decoded.skipped, raw)
        image_set = self._image_set(raw, entry)  # checks it: what is not valid is not cached
        has_cache = from_cache or (bool(raw.files) and self._store(key, entry))
        if raw.split == "train":
            _training_statistics[key.fingerprint, self.skip_corrupt] = entry.statistics
        return LoadedSplit(image_set, key.path if has_cache else None, not from_cache)

    def _options(self, raw: RawSplit) -> DecodeOptions:
        statistics = raw.statistics
        if statistics is None and raw.split != "train":
            statistics = self._statistics_of_training()
        return DecodeOptions(self.image_size, statistics, self.skip_corrupt)

    def _statistics_of_training(self) -> Statistics:
        raw = self.source.open("train", self.root)
        key = cache.cache_key(raw, self._options(raw), self.cache_folder)
        remembered = _training_statistics.get((key.fingerprint, self.skip_corrupt))
        if remembered:
            return remembered
        header = cache.load_header(key)
        if header and (self.skip_corrupt or not header.skipped):
            return header.statistics
        training = self.load("train").image_set
        return Statistics(training.mean, training.std)

    def _decode(self, raw: RawSplit, options: DecodeOptions) -> cache.CacheEntry:
        decoded: Decoded = raw.decode(options)
        return cache.CacheEntry(decoded, options.statistics or pixel_statistics(decoded.images))

    def _store(self, key: cache.CacheKey, entry: cache.CacheEntry) -> bool:
        try:
            cache.store(key, entry)
        except CacheWriteError as error:
            if self.require_cache:
                raise
            warnings.warn(f"{error}; going on without it", DataWarning, stacklevel=4)
            return False
        return True

    def _report_skipped(self, skipped: tuple[str, ...], raw: RawSplit) -> None:
        if skipped and not self.skip_corrupt:  # a cache made with skip_corrupt
            raise corrupt_image_error(f"{raw.name} ({raw.split})", skipped)
        if skipped:
            warnings.warn(left_out(raw, skipped), DataWarning, stacklevel=4)

    def _image_set(self, raw: RawSplit, entry: cache.CacheEntry) -> ImageSet:
        decoded, statistics = entry.decoded, entry.statistics
        return ImageSet(
            images=decoded.images.permute(0, 3, 1, 2),  # a channels-last view of the same memory
            labels=decoded.labels,
            classes=raw.classes,
            mean=statistics.mean,
            std=statistics.std,
            name=raw.name,
            split=raw.split,
            skipped=len(decoded.skipped),
        )
