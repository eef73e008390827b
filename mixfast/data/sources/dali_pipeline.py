"""The DALI pipelines: encoded files in, uint8 images, or regions of them, of one size out. The only module that loads DALI."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from nvidia.dali import fn, math, types
from nvidia.dali.data_node import DataNode
from nvidia.dali.pipeline import Pipeline

from mixfast.data.regions import Region, span
from mixfast.data.sources.interface import PixelFormat

Encoded = tuple[list[np.ndarray], list[np.ndarray]]
"""Of one run: the bytes of every file, uint8 [number of bytes], and what region of it is wanted, int64 [4] in the order of
`Region`; empty where whole images are."""

# Runs that DALI works ahead: while one is consumed, one is finished and one is under way.
AHEAD = 2


@dataclass(frozen=True)
class DaliSettings:
    """cuts: whether regions are wanted. largest: images a run at most. threads: that decode. device_id: the GPU that decodes;
    None: the CPU does."""

    cuts: bool
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
        dtypes = [types.UINT8, types.INT64] if settings.cuts else [types.UINT8]
        inputs = fn.external_source(
            source=lambda: source()[: len(dtypes)],
            num_outputs=len(dtypes),
            batch=True,
            dtype=dtypes,
            ndim=1,
            no_copy=True,
        )
        decoding = {
            "device": "cpu" if settings.device_id is None else "mixed",
            "output_type": types.RGB if form.channels == 3 else types.GRAY,
        }
        decoded = _region if settings.cuts else _whole
        pipeline.set_outputs(decoded(*inputs, form.image_size, decoding))
    pipeline.build()
    return pipeline


def _whole(encoded: DataNode, image_size: int | None, decoding: dict[str, Any]) -> DataNode:
    if image_size is None:
        return fn.decoders.image(encoded, **decoding)
    return _resized_and_cropped(encoded, image_size, decoding)


def _resized_and_cropped(encoded: DataNode, size: int, decoding: dict[str, Any]) -> DataNode:
    """`pixels.resize_and_crop`: the same sizes and the same window, to the pixel; DALI's own rounding differs. What lies
    beside the window is not decoded where the format allows that."""
    shape = fn.peek_image_shape(encoded)
    shorter = math.min(shape[0], shape[1])
    rows, columns = (_Window.of(shape[axis], shorter, size) for axis in range(2))
    return fn.resize(
        _slice(encoded, (rows.first, rows.length), (columns.first, columns.length), decoding),
        size=(size, size),
        roi_start=fn.stack(rows.start, columns.start),
        roi_end=fn.stack(rows.end, columns.end),
        interp_type=types.INTERP_CUBIC,
        antialias=True,
    )


class _Window(NamedTuple):
    """Along one side. first, length: the pixels that are decoded; start, end: the part of these that is shown, in fractions
    of a pixel."""

    first: DataNode
    length: DataNode
    start: DataNode
    end: DataNode

    @staticmethod
    def of(side: DataNode, shorter: DataNode, size: int) -> _Window:
        """What `size` pixels in the middle of the resized side show, and around it what the cubic filter reaches."""
        resized = size * side // shorter
        start = _half_to_even(resized - size)
        reach = 2 * (side // resized + 1) + 1
        first = math.max(start * side // resized - reach, 0)
        end = math.min((start + size) * side // resized + 1 + reach, side)
        shown = (_float(edge) * _float(side) / _float(resized) - _float(first) for edge in (start, start + size))
        return _Window(first, end - first, *shown)


def _region(encoded: DataNode, region: DataNode, image_size: int, decoding: dict[str, Any]) -> DataNode:
    """`pixels.read_region`: the same pixels, of which no others are decoded where the format allows that. Nothing outside the
    region takes part in resizing it, so that the decoder needs no margin."""
    shape, region = fn.peek_image_shape(encoded), Region(*(region[part] for part in range(4)))
    side = math.min(shape[0], shape[1])
    (row, height), (column, width) = span(region.height, region.top, side), span(region.width, region.left, side)
    row, column = row + _half_to_even(shape[0] - side), column + _half_to_even(shape[1] - side)
    images = _slice(encoded, (row, height), (column, width), decoding)
    return fn.resize(images, size=(image_size, image_size), interp_type=types.INTERP_LINEAR, antialias=True)


def _slice(
    encoded: DataNode, rows: tuple[DataNode, DataNode], columns: tuple[DataNode, DataNode], decoding: dict[str, Any]
) -> DataNode:
    """Some rows and columns, (first, number) each, of upright images: on the CPU to the bit those of the whole image decoded."""
    start, shape = (fn.cast(fn.stack(*ends), dtype=types.INT32) for ends in zip(rows, columns, strict=True))
    return fn.decoders.image_slice(encoded, start=start, shape=shape, axes=(0, 1), **decoding)


def _float(number: DataNode) -> DataNode:
    return fn.cast(number, dtype=types.FLOAT)


def _half_to_even(number: DataNode) -> DataNode:
    """round(number / 2) of a whole number that is not negative, as Python rounds."""
    down, odd = number // 2, number - number // 2 * 2
    return down + odd * (down - down // 2 * 2)
