"""Data sets: names -> `ImageSet`s in memory or `StreamedSet`s on disk, and the plan of which images each step takes."""

from __future__ import annotations

from mixfast.data.errors import CacheWriteError, CorruptImageError, DataError, DataWarning, OutOfMemoryError
from mixfast.data.holdout import validation_split
from mixfast.data.image_set import ImageSet
from mixfast.data.loading import load_split, split_names, why_unusable
from mixfast.data.prepare import PreparedSplit, prepare
from mixfast.data.registry import data_set_names
from mixfast.data.sampler import VIEWS, BatchPlan, EpochPlan, Views, plan_epoch
from mixfast.data.shapes import DataShape, data_shape
from mixfast.data.sources.kinds import SourceOptions
from mixfast.data.sources.opening import Images, choose_source, open_images, open_larger
from mixfast.data.sources.streamed_set import StreamedSet

__all__ = [
    "VIEWS",
    "BatchPlan",
    "CacheWriteError",
    "CorruptImageError",
    "DataError",
    "DataShape",
    "DataWarning",
    "EpochPlan",
    "ImageSet",
    "Images",
    "OutOfMemoryError",
    "PreparedSplit",
    "SourceOptions",
    "StreamedSet",
    "Views",
    "choose_source",
    "data_set_names",
    "data_shape",
    "load_split",
    "open_images",
    "open_larger",
    "plan_epoch",
    "prepare",
    "split_names",
    "validation_split",
    "why_unusable",
]
