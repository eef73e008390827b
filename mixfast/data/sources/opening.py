"""From a data set's name to its splits, resident or streamed, and the rule by which `data.source=auto` chooses."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

from mixfast.data.errors import DataError, DataWarning
from mixfast.data.image_set import ImageSet
from mixfast.data.loading import SplitLoader, left_out
from mixfast.data.memory import available_memory
from mixfast.data.pixels import is_colour, upright_size
from mixfast.data.source import CORRUPT_LEFT_OUT, DecodeOptions, RawSplit
from mixfast.data.sources.dali_presence import require_dali, why_no_dali
from mixfast.data.sources.interface import PixelFormat
from mixfast.data.sources.kinds import SourceOptions
from mixfast.data.sources.streamed_set import StreamedSet
from mixfast.data.sources.survey import Survey, survey
from mixfast.data.statistics import Statistics

Images = ImageSet | StreamedSet


def open_images(
    name: str,
    splits: Sequence[str],
    *,
    options: SourceOptions,
    device: torch.device | str = "cpu",
    root: str | Path | None = None,
    cache_dir: str | Path | None = None,
    image_size: int | None = None,
    skip_corrupt: bool = False,
) -> tuple[Images, ...]:
    """Some splits of the data set `name` on `device`, all through one source.

    options  which source; kind auto picks one by `choose_source`
    others   as in `loading.load_split`

    Raises what `load_split` does; UnavailableError if the source cannot work here; DataError if it decodes files and
    the data set has none.
    """
    loader = SplitLoader(name, root=root, cache_dir=cache_dir, image_size=image_size, skip_corrupt=skip_corrupt)
    device = torch.device(device)
    kind = options.kind if options.kind != "auto" else _choose(loader, splits, options, device)
    if kind == "resident":
        return tuple(loader.load(split).image_set.to(device) for split in splits)
    if kind == "dali":
        require_dali(options.decoder, device)
    opener = _StreamOpener(loader, dataclasses.replace(options, kind=kind))
    return tuple(opener.open(split).to(device) for split in splits)


def open_larger(data: Images, size: int, **opening: object) -> Images:
    """The training split `data`, its images decoded to squares of `size` pixels, from which views as large as they were are
    cut. They are normalised as before. `opening`: what `data` was opened with, as in `open_images`."""
    view_size = data.image_shape[0]
    if isinstance(data, StreamedSet):
        form = dataclasses.replace(data.form, height=size, width=size, image_size=size)
        return dataclasses.replace(data, form=form, view_size=view_size)
    opening |= {"options": SourceOptions("resident"), "image_size": size, "device": data.device}
    (larger,) = open_images(data.name, ("train",), **opening)
    return dataclasses.replace(larger, mean=data.mean, std=data.std, view_size=view_size)


def choose_source(
    name: str,
    splits: Sequence[str],
    *,
    options: SourceOptions,
    device: torch.device,
    stored_size: int | None = None,
    **loading: object,
) -> str:
    """What auto stands for: resident where the decoded splits, and the training split at stored_size, take at most
    options.resident_share of the memory that is free now, the device's too where that is not the host's, or where they come
    as arrays; else dali, or torch where DALI cannot work. `loading` as in `open_images`."""
    return _choose(SplitLoader(name, **loading), splits, options, device, stored_size)


def _choose(
    loader: SplitLoader,
    splits: Sequence[str],
    options: SourceOptions,
    device: torch.device,
    stored_size: int | None = None,
) -> str:
    stored = [(split, loader.image_size) for split in splits] + [("train", stored_size)] * (stored_size is not None)
    needed = sum(decoded_bytes(loader.source.open(split, loader.root), size) for split, size in stored)
    if not options.from_files and all(needed <= options.resident_share * free for free in _free_memory(device)):
        return "resident"
    if options.decoder == "mixed":
        require_dali(options.decoder, device)
    return "torch" if why_no_dali(options.decoder, device) else "dali"


def decoded_bytes(raw: RawSplit, image_size: int | None) -> int:
    """What `raw` would take in memory, in colour, if all its images are as large as its first; 0 for arrays."""
    if not raw.images:
        return 0
    height, width = (image_size, image_size) if image_size else first_size(raw)[1:]
    return len(raw.images) * height * width * 3


def first_size(raw: RawSplit) -> tuple[str, int, int]:
    """(file, height, width) of the first image whose header can be read. Raises DataError where there is none."""
    for file in raw.images:
        size = upright_size(file)
        if size is not None:
            return file, *size
    raise DataError(f"{raw.name} ({raw.split}): none of the {len(raw.images):,} image files can be decoded")


def _free_memory(device: torch.device) -> list[int]:
    """Bytes free on the host, and on the device where that has memory of its own; what is not known is left out."""
    device_free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None
    return [free for free in (available_memory(), device_free) if free is not None]


class _StreamOpener:
    """Opens splits of one data set for a source that decodes files."""

    def __init__(self, loader: SplitLoader, options: SourceOptions) -> None:
        self._loader, self._options = loader, options
        self._training: Survey | None = None

    def open(self, split: str) -> StreamedSet:
        raw = self._loader.source.open(split, self._loader.root)
        if not raw.images:
            also = " and data.regions=images" if self._options.from_files else ""
            raise DataError(
                f"data.source is {self._options.kind} and data.name is {raw.name}: its images lie in arrays, there are no "
                f"files to decode; set data.source=resident{also}"
            )
        known = raw.statistics
        if known is None and raw.split != "train":
            known = self._survey_of_training().statistics
        form, found = self._form(raw, known), Survey(known, {})
        if known is None or self._loader.skip_corrupt:
            found = self._survey(raw, known, form)
        if raw.split == "train":
            self._training = found
        return self._streamed(raw, found, form)

    def _survey_of_training(self) -> Survey:
        if self._training is None:
            raw = self._loader.source.open("train", self._loader.root)
            self._training = self._survey(raw, None, self._form(raw, None))
        return self._training

    def _survey(self, raw: RawSplit, known: Statistics | None, form: PixelFormat) -> Survey:
        options = DecodeOptions(form.image_size, known, self._loader.skip_corrupt)
        found = survey(raw, options, form, self._loader.cache_folder)
        return Survey(known or found.statistics, found.skipped)

    def _form(self, raw: RawSplit, known: Statistics | None) -> PixelFormat:
        """As resident sets decide: by the training split's channels, or the files' headers, and by the first image."""
        image_size = self._loader.image_size
        model, height, width = ("", image_size, image_size) if image_size else first_size(raw)
        channels = known.channels if known else 3 if any(is_colour(file) for file in raw.images) else 1
        return PixelFormat(height, width, channels, image_size, model)

    def _streamed(self, raw: RawSplit, found: Survey, form: PixelFormat) -> StreamedSet:
        kept = [position for position in range(len(raw.images)) if position not in found.skipped]
        labels = raw.labels[torch.tensor(kept, dtype=torch.int64)]
        if found.skipped:
            raw.require_every_class(labels, CORRUPT_LEFT_OUT)
            warnings.warn(left_out(raw, tuple(found.skipped.values())), DataWarning, stacklevel=4)
        return StreamedSet(
            files=tuple(raw.images[position] for position in kept),
            labels=labels,
            classes=raw.classes,
            mean=found.statistics.mean,
            std=found.statistics.std,
            name=raw.name,
            split=raw.split,
            form=form,
            options=self._options,
            skipped=len(found.skipped),
        )
