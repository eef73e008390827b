"""What feeds a training from image files: mixfast's sources, and torchvision's data set and loader.

Every run gives one batch of views, each cropped (with a border, or random-resized), flipped and normalised by itself: rows of
the table are comparable as images a second. All work ahead of the one who consumes, and go on while another one has its turn,
so that a turn must be long: the few batches that lie ready when it begins are those that are missing when it ends.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from mixfast.config import Config
from mixfast.data import ImageSet, StreamedSet
from mixfast.data.sources.interface import Pixels, Request, Requests
from mixfast.data.sources.processes import start_method
from mixfast_bench.cases import SINGLE, Batches, training_config
from mixfast_bench.data import Pipeline, floor_bytes
from mixfast_bench.measure import Mark
from mixfast_bench.registry import Comparison
from mixfast_bench.spread import COARSE

LOADER_PROCESSES = 2


@dataclass(frozen=True)
class SourceEntry:
    """A source, or how it is used.

    Attributes:
        name: in tables and records.
        kind: ``resident``, ``dali``, ``torch``, or ``torchvision`` for the opponent.
        repeats: whether images are repeated as often as the batches say; else each stands once.
        decodes_again: whether an image is decoded for every repetition.
        crop_area: of a random-resized crop, in place of the border.
        regions: what it is cut out of, decoded images or files.
    """

    name: str
    kind: str
    repeats: bool = False
    decodes_again: bool = False
    crop_area: tuple[float, float] | None = None
    regions: str = "images"

    def build(self, data: StreamedSet, batches: Batches, prefix: str = "") -> Any:
        """The contender; ``data`` says which files, and on how many threads or processes they are decoded."""
        repetition = batches.repetition if self.repeats else 1
        changes: dict[str, Any] = {"repetition": repetition}
        if self.crop_area is not None:
            changes |= {"pad": 0, "crop_area": list(self.crop_area), "regions": self.regions}
            changes |= {"image_size": data.form.image_size}
        config = training_config(SINGLE, batches, device=data.device).replace(data=changes)
        if self.kind == "torchvision":
            return TorchvisionLoader(prefix + self.name, config, data)
        images = resident(data) if self.kind == "resident" else of_kind(data, self.kind)
        return Pipeline(prefix + self.name, config, DecodedAgain(images, repetition) if self.decodes_again else images)


OPPONENT = "torchvision ImageFolder + DataLoader"
REPEATED, AGAIN = "dali, each image b times", "dali, b times, decoding each time"
FILES, REPEATED_FILES = "dali, regions of files", "dali, b times, regions of files"
SOURCES = (
    SourceEntry("resident", "resident"),
    SourceEntry("dali", "dali"),
    SourceEntry("torch", "torch"),
    SourceEntry(OPPONENT, "torchvision"),
    SourceEntry(REPEATED, "dali", repeats=True),
    SourceEntry(AGAIN, "dali", repeats=True, decodes_again=True),
)
OVER_TORCHVISION = tuple(
    Comparison(f"{name} over torchvision", OPPONENT, name, COARSE) for name in ("resident", "dali", "torch")
)
SOURCE_COMPARISONS = (*OVER_TORCHVISION, Comparison("decoding once over each time", AGAIN, REPEATED, COARSE))
CUT_COMPARISONS = (
    *OVER_TORCHVISION,
    Comparison(f"{FILES} over torchvision", OPPONENT, FILES, COARSE),
    Comparison("regions of images over regions of files, b times", REPEATED_FILES, REPEATED, COARSE),
)


def cut_sources(crop_area: tuple[float, float]) -> tuple[SourceEntry, ...]:
    """The same with random-resized crop, in place of decoding each time once more with every region from its file."""
    whole = (entry for entry in SOURCES if not entry.decodes_again)
    files = (
        SourceEntry(FILES, "dali", regions="files"),
        SourceEntry(REPEATED_FILES, "dali", repeats=True, regions="files"),
    )
    return tuple(dataclasses.replace(entry, crop_area=crop_area) for entry in (*whole, *files))


def of_kind(data: StreamedSet, kind: str) -> StreamedSet:
    """The same files through another source."""
    return dataclasses.replace(data, options=dataclasses.replace(data.options, kind=kind))


def resident(data: StreamedSet) -> ImageSet:
    """The same images in memory."""
    everything = torch.arange(len(data))
    with closing(of_kind(data, "torch").stream(lambda step: Request(everything), range(1), len(data))) as stream:
        images = next(stream).images
    return ImageSet(images, data.labels, data.classes, data.mean, data.std, data.name, data.split)


class DecodedAgain:
    """A set whose every image is decoded ``times`` times a step, as where repetition lies before the decoder."""

    def __init__(self, data: StreamedSet, times: int) -> None:
        self._data, self._times = data, times

    def __len__(self) -> int:
        return len(self._data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._data, name)

    def stream(self, requests: Requests, steps: range, largest: int) -> Iterator[Pixels]:
        times = self._times

        def repeated(step: int) -> Request:
            return Request(requests(step).index.repeat_interleave(times))

        return self._data.stream(repeated, steps, times * largest)


class TorchvisionLoader:
    """torchvision's ``ImageFolder`` and transforms in the processes of a shuffling ``DataLoader``."""

    def __init__(self, name: str, config: Config, data: StreamedSet) -> None:
        self.name = name
        self._device = data.device
        transform = transforms.Compose(
            [
                *_crop(config, data),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(data.mean, data.std),
            ]
        )
        folder = datasets.ImageFolder(os.path.commonpath(data.files), transform)
        self._loader = DataLoader(
            folder,
            batch_size=config.training.batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=LOADER_PROCESSES,
            persistent_workers=True,
            multiprocessing_context=start_method(),
        )
        self._batches: Iterator[Any] = iter(())
        self.floor_bytes = floor_bytes(self._next())

    def run(self, mark: Mark) -> None:
        self._next()
        mark("data")

    def _next(self) -> torch.Tensor:
        batch = next(self._batches, None)
        if batch is None:
            self._batches = iter(self._loader)
            batch = next(self._batches)
        return batch[0].to(self._device)


def _crop(config: Config, data: StreamedSet) -> list[Any]:
    """torchvision's transforms of a PIL image to one that is cropped; the usual random-resized crop takes the whole image."""
    if config.data.crop_area is not None:
        return [transforms.RandomResizedCrop(data.image_shape, config.data.crop_area)]
    crop = transforms.RandomCrop(data.image_shape, padding=config.data.pad)
    size = data.form.image_size
    if size is None:
        return [crop]
    return [transforms.Resize(size, transforms.InterpolationMode.BICUBIC), transforms.CenterCrop(size), crop]
