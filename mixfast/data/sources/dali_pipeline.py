"""The DALI pipeline: encoded files in, uint8 images of one size out. The only module that loads NVIDIA DALI."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from nvidia.dali import fn, math, types
from nvidia.dali.data_node import DataNode
from nvidia.dali.pipeline import Pipeline

from mixfast.data.sources.interface import PixelFormat

Encoded = list[np.ndarray]
"""The bytes of the files of one run, uint8 [number of bytes] each."""

# Runs that DALI works ahead: while one is consumed, one is finished and one is under way.
AHEAD = 2


@dataclass(frozen=True)
class DaliSettings:
    """largest: images a run at most. threads: that decode. device_id: the GPU that decodes; None: the CPU does."""

    largest: int
    threads: int
    device_id: int | None


def build_pipeline(source: Callable[[], Encoded], form: PixelFormat, settings: DaliSettings) -> Pipeline:
    """A pipeline that asks `source` for the files of one run after the other, until that raises StopIteration.

    Its output stays valid for as long as someone holds it. Nothing in it is random.
    """
    pipeline = Pipeline(
        batch_size=settings.largest,
        num_threads=settings.threads,
        device_id=settings.device_id,
        prefetch_queue_depth=AHEAD,
        exec_dynamic=True,
    )
    with pipeline:
        (encoded,) = fn.external_source(
            source=lambda: [source()], num_outputs=1, batch=True, dtype=types.UINT8, ndim=1, no_copy=True
        )
        pipeline.set_outputs(_decoded(encoded, form, on_gpu=settings.device_id is not None))
    pipeline.build()
    return pipeline


def _decoded(encoded: DataNode, form: PixelFormat, on_gpu: bool) -> DataNode:
    colours = types.RGB if form.channels == 3 else types.GRAY
    images = fn.decoders.image(encoded, device="mixed" if on_gpu else "cpu", output_type=colours)
    if form.image_size is None:
        return images
    return _resized_and_cropped(images, fn.peek_image_shape(encoded), form.image_size)


def _resized_and_cropped(images: DataNode, shape: DataNode, size: int) -> DataNode:
    """`pixels.resize_and_crop`: the same sizes and the same window, to the pixel; DALI's own rounding differs."""
    height, width = shape[0], shape[1]
    shorter = math.min(height, width)
    height, width = size * height // shorter, size * width // shorter
    images = fn.resize(
        images,
        size=fn.cast(fn.stack(height, width), dtype=types.FLOAT),
        interp_type=types.INTERP_CUBIC,
        antialias=True,
    )
    start = fn.stack(_half_to_even(height - size), _half_to_even(width - size))
    return fn.slice(images, start=fn.cast(start, dtype=types.INT32), shape=(size, size), axes=(0, 1))


def _half_to_even(number: DataNode) -> DataNode:
    """round(number / 2) of a whole number that is not negative, as Python rounds."""
    down, odd = number // 2, number - number // 2 * 2
    return down + odd * (down - down // 2 * 2)
