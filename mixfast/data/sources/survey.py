"""A look at every file of a split that nothing is published about, before it is streamed: statistics, corrupt files.

It decodes as a resident set does, whichever source streams later, so that all normalise by the same numbers. What it
finds is kept beside the decoded cache: the next run does not look again.
"""

from __future__ import annotations

import json
import threading
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from mixfast.data import cache
from mixfast.data.decode import corrupt_image_error, in_parallel
from mixfast.data.errors import CorruptImageError, DataError
from mixfast.data.source import DecodeOptions, RawSplit
from mixfast.data.sources.interface import PixelFormat
from mixfast.data.sources.reading import read_image
from mixfast.data.statistics import Statistics, statistics_of_counts
from mixfast.files import write_text


@dataclass(frozen=True)
class Survey:
    """statistics: of all pixels; skipped: "file: reason" by position, of files that cannot be decoded."""

    statistics: Statistics
    skipped: dict[int, str]


def survey(raw: RawSplit, options: DecodeOptions, form: PixelFormat, cache_folder: Path) -> Survey:
    """What a look at every file of `raw` finds, or found when it was last looked at, if no file has changed since.

    Raises CorruptImageError for a corrupt file, unless options.skip_corrupt; DataError for two sizes, or if no file can
    be decoded.
    """
    key = cache.cache_key(raw, options, cache_folder)
    header = cache.load_header(key)
    if header and not header.skipped:
        return Survey(header.statistics, {})
    file = key.path.with_suffix(".survey.json")
    found = _remembered(file, key.fingerprint)
    if found is None:
        found = _look(raw, form, options.skip_corrupt)
        _remember(file, key.fingerprint, found)
    if found.skipped and not options.skip_corrupt:
        raise corrupt_image_error(key.what, list(found.skipped.values()))
    return found


def _look(raw: RawSplit, form: PixelFormat, skip_corrupt: bool) -> Survey:
    what = f"{raw.name} ({raw.split})"
    counts_c256 = np.zeros((form.channels, 256), dtype=np.int64)
    skipped: dict[int, str] = {}
    lock = threading.Lock()

    def look(position: int) -> None:
        try:
            pixels = read_image(raw.images[position], form, what)
        except CorruptImageError as error:
            if not skip_corrupt:
                raise
            skipped[position] = f"{raw.images[position]}: {error.__cause__}"
            return
        counts = np.stack([np.bincount(pixels[:, :, c].reshape(-1), minlength=256) for c in range(form.channels)])
        with lock:
            counts_c256[:] += counts

    in_parallel(len(raw.images), look, f"{what}: statistics")
    if len(skipped) == len(raw.images):
        raise DataError(f"{what}: none of the {len(raw.images):,} image files can be decoded")
    return Survey(statistics_of_counts(torch.from_numpy(counts_c256)), dict(sorted(skipped.items())))


def _remembered(file: Path, fingerprint: str) -> Survey | None:
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        if record["fingerprint"] != fingerprint:
            return None
        statistics = Statistics(tuple(record["statistics"]["mean"]), tuple(record["statistics"]["std"]))
        return Survey(statistics, {int(position): text for position, text in record["skipped"].items()})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remember(file: Path, fingerprint: str, found: Survey) -> None:
    """A folder that cannot be written costs the next run another look, no more."""
    record = {"fingerprint": fingerprint, "statistics": asdict(found.statistics), "skipped": found.skipped}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps(record) + "\n")
    except OSError:
        return
