"""The `dali` source: NVIDIA DALI decodes in its own threads, or on the GPU, what a pool of threads has read ahead.

What a step asks for once is decoded once, however often it is repeated there, and decoded images are not copied: the
training step augments from the memory that DALI decoded into.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from nvidia.dali.pipeline import Pipeline
from torch import Tensor

from mixfast.data.decode import corrupt_image_error
from mixfast.data.encoded import EncodedFile, read_bytes
from mixfast.data.errors import DataError
from mixfast.data.pixels import UndecodableError, read_pixels
from mixfast.data.sources.dali_pipeline import DaliSettings, Encoded, build_pipeline
from mixfast.data.sources.interface import PixelFormat, Wanted
from mixfast.data.sources.reading import other_size, read_image, unreadable

# Images that DALI decodes in one run at least, where there are enough: with batch repetition a step has few, and a run
# costs about as much as decoding ten small ones.
_LEAST = 64
# Groups whose files are being read, before those that DALI works on.
_READ_AHEAD = 2
# Threads that wait for the disk, for each thread that decodes.
_READERS_A_THREAD = 2
# Files that one thread reads at once.
_CHUNK = 16
_GIF = b"GIF8"


class DaliSource:
    """Arguments: the files, what they are decoded to, DALI's threads, the GPU that decodes (None: the CPU does), and what
    messages call the data set."""

    def __init__(
        self, files: Sequence[EncodedFile], form: PixelFormat, threads: int, device_id: int | None, what: str
    ) -> None:
        self._files, self._form, self._what = files, form, what
        self._threads, self._device_id = threads, device_id
        self._feeder = _Feeder(files, form, what)
        self._idle: tuple[DaliSettings, Pipeline] | None = None

    def describe(self) -> str:
        where = "on the CPU (cpu)" if self._device_id is None else f"on CUDA device {self._device_id} (mixed)"
        return f"dali, decoded {where}, {self._threads} thread{'s' if self._threads > 1 else ''}"

    def stream(self, requests: Iterator[Sequence[Wanted]], largest: int) -> Iterator[Tensor]:
        first = next(requests, ())
        if not first:
            return
        cuts = first[0].region is not None
        settings = DaliSettings(cuts, largest + _LEAST - 1, self._threads, self._device_id)
        with ThreadPoolExecutor(_READERS_A_THREAD * self._threads) as readers:
            feeder = self._feeder
            feeder.begin(_grouped(chain([first], requests)), readers)
            pipeline = self._pipeline(settings)
            try:
                while True:
                    images = self._images(self._run(pipeline))
                    if images is None:
                        return
                    yield from images.split(feeder.handed.popleft().group.sizes)
            finally:
                if feeder.is_through:
                    self._keep(pipeline, settings)

    def _pipeline(self, settings: DaliSettings) -> Pipeline:
        """The one of the last epoch, if that came to its end."""
        idle, self._idle = self._idle, None
        if idle is not None and idle[0] == settings:
            return idle[1]
        return build_pipeline(self._feeder.next, self._form, settings)

    def _keep(self, pipeline: Pipeline, settings: DaliSettings) -> None:
        """For the next epoch: nothing is under way in it, so that it only has to learn that this epoch is over."""
        with suppress(StopIteration):
            pipeline.run()
        pipeline.reset()
        self._idle = (settings, pipeline)

    def _run(self, pipeline: Pipeline) -> Any | None:
        """The next step's list of images; None at the end."""
        try:
            return pipeline.run()[0]
        except StopIteration:
            return None
        except RuntimeError as error:
            raise self._explained(error) from error

    def _images(self, output: Any | None) -> Tensor | None:
        """DALI's list as one tensor over the same memory."""
        if output is None:
            return None
        form = self._form
        for place, shape in enumerate(output.shape()):
            if tuple(shape[:2]) != (form.height, form.width):
                file = self._files[self._feeder.handed[0].group.wanted[place].position]
                raise other_size(file, (shape[0], shape[1]), form, self._what)
        return torch.from_dlpack(output.as_tensor())

    def _explained(self, error: RuntimeError) -> DataError:
        """DALI says that some image cannot be decoded, not which: here is the one, and why."""
        handed = [wanted.position for run in self._feeder.handed for wanted in run.group.wanted]
        under_way = tuple(dict.fromkeys(handed))
        for position in under_way:
            try:
                read_image(self._files[position], self._form, self._what)
            except DataError as found:
                return found
        # What Pillow can read, DALI refuses: its own word, and the file that it cannot decode alone.
        settings = DaliSettings(False, 1, 1, self._device_id)
        for position in under_way:
            encoded = iter([([self._feeder.read(position)], [])])
            try:
                build_pipeline(encoded.__next__, self._form, settings).run()
            except RuntimeError as alone:
                file = self._files[position]
                return corrupt_image_error(self._what, [f"{file}: NVIDIA DALI refuses it: {_reason(alone)}"])
        return DataError(f"{self._what}: NVIDIA DALI failed: {_reason(error)}")


@dataclass(frozen=True)
class _Group:
    """Steps that DALI decodes in one run. wanted: by one step after the other; sizes: images a step."""

    wanted: list[Wanted]
    sizes: list[int]

    def regions(self) -> list[np.ndarray]:
        """As DALI can take them: int64 [4] each."""
        return [np.array(wanted.region, np.int64) for wanted in self.wanted if wanted.region is not None]


def _grouped(requests: Iterator[Sequence[Wanted]]) -> Iterator[_Group]:
    """As many steps together as make ``_LEAST`` images."""
    wanted: list[Wanted] = []
    sizes: list[int] = []
    for request in requests:
        wanted += request
        sizes.append(len(request))
        if len(wanted) >= _LEAST:
            yield _Group(wanted, sizes)
            wanted, sizes = [], []
    if sizes:
        yield _Group(wanted, sizes)


@dataclass(frozen=True)
class _Run:
    """encoded: what DALI got of the group; held here, because DALI reads it in place."""

    group: _Group
    encoded: Encoded


class _Feeder:
    """Has the files of the coming groups read by a pool of threads, and hands them to DALI one group after the other."""

    def __init__(self, files: Sequence[EncodedFile], form: PixelFormat, what: str) -> None:
        self._files, self._form, self._what = files, form, what
        self.handed: deque[_Run] = deque()

    def begin(self, groups: Iterator[_Group], readers: ThreadPoolExecutor) -> None:
        """A new epoch; what was under way is forgotten."""
        self._groups, self._readers = groups, readers
        self._reading: deque[tuple[_Group, list[Future[list[np.ndarray]]]]] = deque()
        self._all_asked = False
        self.handed.clear()

    @property
    def is_through(self) -> bool:
        """Whether the epoch is over: every group was handed over, and its images came back."""
        return self._all_asked and not self._reading and not self.handed

    def next(self) -> Encoded:
        """What DALI is to decode next. Raises StopIteration after the last, DataError for a file that cannot be read."""
        while len(self._reading) < _READ_AHEAD and not self._all_asked:
            self._start_reading()
        if not self._reading:
            raise StopIteration
        group, parts = self._reading.popleft()
        encoded = [data for part in parts for data in part.result()], group.regions()
        self.handed.append(_Run(group, encoded))
        return encoded

    def read(self, position: int) -> np.ndarray:
        """What is in a file, as DALI can take it: uint8 [number of bytes]."""
        file = self._files[position]
        try:
            encoded = np.frombuffer(read_bytes(file), np.uint8)
            return self._without_gif(file) if encoded[:4].tobytes() == _GIF else encoded
        except OSError as error:
            raise unreadable(file, self._what, error) from error
        except UndecodableError as error:
            raise corrupt_image_error(self._what, [f"{file}: {error}"]) from error

    def _start_reading(self) -> None:
        group = next(self._groups, None)
        if group is None:
            self._all_asked = True
            return
        positions = [wanted.position for wanted in group.wanted]
        chunks = [positions[start : start + _CHUNK] for start in range(0, len(positions), _CHUNK)]
        self._reading.append((group, [self._readers.submit(self._read_all, chunk) for chunk in chunks]))

    def _read_all(self, positions: Sequence[int]) -> list[np.ndarray]:
        return [self.read(position) for position in positions]

    def _without_gif(self, file: str) -> np.ndarray:
        """A format that DALI does not know: decoded here, and handed over as plain pixels (PNM)."""
        pixels = read_pixels(file, self._form.channels, None)
        header = f"P{5 if self._form.channels == 1 else 6}\n{pixels.shape[1]} {pixels.shape[0]}\n255\n"
        return np.frombuffer(header.encode() + pixels.tobytes(), np.uint8)


def _reason(error: RuntimeError) -> str:
    """The lines of DALI's message that say what happened, not where in the pipeline."""
    _, _, after = str(error).partition("encountered:")
    lines = [line.strip() for line in (after or str(error)).splitlines()]
    return "; ".join(line for line in lines if line and "pipeline object is no longer valid" not in line)
