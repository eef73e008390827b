"""The sources that decode while training, by name: to add one, write its `PixelSource` and list it here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mixfast.data.decode import usable_cores
from mixfast.data.encoded import EncodedFile
from mixfast.data.sources.interface import PixelFormat, PixelSource


@dataclass(frozen=True)
class SourceOptions:
    """kind: auto, resident, or what decodes: dali or torch. decoder: DALI's, cpu or mixed. workers: threads or processes
    that decode, None for one a core. resident_share: of the free memory, that auto gives to decoded images. from_files:
    whether regions are cut out of files, so that auto must not choose resident."""

    kind: str = "auto"
    decoder: str = "cpu"
    workers: int | None = None
    resident_share: float = 0.5
    from_files: bool = False


def make_source(
    options: SourceOptions, files: Sequence[EncodedFile], form: PixelFormat, device: torch.device, what: str
) -> PixelSource:
    """The source of `options.kind`, which is not auto any more. Modules are loaded only when they are needed."""
    workers = options.workers or usable_cores()
    if options.kind == "torch":
        from mixfast.data.sources.torch_source import TorchSource

        return TorchSource(files, form, workers, what)
    if options.kind == "dali":
        from mixfast.data.sources.dali_source import DaliSource

        on_gpu = options.decoder == "mixed"
        device_id = (torch.cuda.current_device() if device.index is None else device.index) if on_gpu else None
        return DaliSource(files, form, workers, device_id, what)
    raise AssertionError(f"{options.kind} does not decode")
