"""Checkpoints: everything a bit-exact resume needs, in one file that is never half-written."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from mixfast.data import Images
from mixfast.errors import MixfastError
from mixfast.files import replacing
from mixfast.training.run_directory import unwritten

FORMAT = 1


class CheckpointError(MixfastError):
    """A checkpoint cannot be read or written, or belongs to something else."""


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes ``state`` (tensors, numbers, strings, lists, dicts) so that a crash leaves the previous file.

    Raises:
        CheckpointError: the folder cannot be written, or the disk is full.
    """
    with _written(path) as temporary:
        torch.save({"format": FORMAT, **state}, temporary)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint on the CPU; nothing in it is executed (``weights_only=True``).

    Raises:
        CheckpointError: the file is missing, damaged, or of another format.
    """
    if not path.is_file():
        raise CheckpointError(f"no checkpoint {path}: this run has not saved one yet")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"checkpoint {path} cannot be read: {error}") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        found = state.get("format") if isinstance(state, dict) else type(state).__name__
        raise CheckpointError(f"checkpoint {path} has format {found}, this version reads format {FORMAT}")
    return state


def save_weights(path: Path, network: nn.Module) -> None:
    """The network's parameters and buffers as safetensors; errors as ``save_checkpoint``."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    with _written(path) as temporary:
        save_file(state, temporary)


def load_weights(path: Path, network: nn.Module) -> None:
    """Loads what ``save_weights`` wrote, strictly.

    Raises:
        CheckpointError: the file is missing or damaged, or belongs to another network.
    """
    if not path.is_file():
        raise CheckpointError(f"no weights {path}: this run has not finished an epoch yet")
    try:
        network.load_state_dict(load_file(path))
    except Exception as error:
        raise CheckpointError(f"weights {path} do not fit this network: {error}") from error


@contextmanager
def _written(path: Path) -> Iterator[Path]:
    """``replacing``, with one kind of error: serialisers report a full disk in ways of their own."""
    try:
        with replacing(path) as temporary:
            yield temporary
    except (OSError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(unwritten(path, error)) from error


def fingerprint(data: Images) -> str:
    """A short hash of a data set's images and labels, so that a run is not resumed on other data."""
    digest = hashlib.sha256(repr((data.shape, data.classes)).encode())
    digest.update(data.labels.cpu().numpy().tobytes())
    digest.update(data.identity())
    return digest.hexdigest()[:16]
