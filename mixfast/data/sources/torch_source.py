"""The `torch` source: Pillow in the processes of a plain DataLoader, for machines without DALI.

It gives exactly the pixels of a resident set.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mixfast.data.encoded import EncodedFile
from mixfast.data.errors import DataError
from mixfast.data.sources.interface import PixelFormat, Wanted
from mixfast.data.sources.processes import end_with_parent, start_method
from mixfast.data.sources.reading import read_image

# Steps that each process works ahead.
_AHEAD = 2


class TorchSource:
    """Arguments: the files, what they are decoded to, the number of processes, and what messages call the data set."""

    def __init__(self, files: Sequence[EncodedFile], form: PixelFormat, workers: int, what: str) -> None:
        self._files, self._form, self._workers, self._what = files, form, workers, what

    def describe(self) -> str:
        return f"torch, decoded by Pillow in {self._workers} process{'es' if self._workers > 1 else ''}"

    def stream(self, requests: Iterator[Sequence[Wanted]], largest: int) -> Iterator[Tensor]:
        loader = DataLoader(
            _Files(self._files, self._form, self._what),
            batch_sampler=requests,  # type: ignore[arg-type]  # looked at one by one, never measured
            num_workers=self._workers,
            prefetch_factor=_AHEAD,
            multiprocessing_context=start_method(),
            worker_init_fn=end_with_parent,
            collate_fn=_as_it_is,
            generator=torch.Generator(),  # for seeds that nobody uses, which are else drawn from training's own generator
        )
        batches = iter(loader)
        try:
            while True:
                try:
                    batch = next(batches)
                except StopIteration:
                    return
                except RuntimeError as error:  # how a DataLoader reports a process that was killed
                    raise DataError(f"{self._what}: a process that decodes images ended: {error}") from error
                if isinstance(batch, DataError):
                    raise batch
                yield batch
        finally:
            del batches  # ends its processes, which an error that someone holds would keep else


class _Files(Dataset):
    """Answers a whole request at once. An error is handed over, not raised: the loader would bury it in a traceback."""

    def __init__(self, files: Sequence[EncodedFile], form: PixelFormat, what: str) -> None:
        self._files, self._form, self._what = files, form, what

    def __getitems__(self, request: Sequence[Wanted]) -> Tensor | DataError:
        form = self._form
        images = np.empty((len(request), form.height, form.width, form.channels), dtype=np.uint8)
        try:
            for place, (position, region) in enumerate(request):
                images[place] = read_image(self._files[position], form, self._what, region)
        except DataError as error:
            return error
        return torch.from_numpy(images)


def _as_it_is(batch: Tensor | DataError) -> Tensor | DataError:
    return batch
