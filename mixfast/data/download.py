"""Downloading through torchvision, and the message for when that cannot be done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from http.client import HTTPException
from pathlib import Path
from types import ModuleType
from typing import Any

from mixfast.data.errors import DataError
from mixfast.data.paths import contents

_allowed = ContextVar("downloads_allowed", default=True)


@contextmanager
def no_downloads() -> Iterator[None]:
    """While entered, data that are not there are reported at once instead of being downloaded."""
    token = _allowed.set(False)
    try:
        yield
    finally:
        _allowed.reset(token)


def torchvision_datasets() -> ModuleType:
    """`torchvision.datasets`, imported only when it is needed: it takes seconds."""
    import torchvision.datasets

    return torchvision.datasets


def download(kind: str, root: Path, name: str, by_hand: str, **arguments: Any) -> None:
    """Lets `torchvision.datasets.<kind>` download itself into `root`.

    by_hand: what a person without a connection should put where.
    Raises FileNotFoundError, saying that, if it cannot be downloaded, or must not be (`no_downloads`).
    """
    if not _allowed.get():
        raise FileNotFoundError(f"{name}: not found ({contents(root)}); downloaded when it is first used. {by_hand}")
    try:
        root.mkdir(parents=True, exist_ok=True)
        getattr(torchvision_datasets(), kind)(root, download=True, **arguments)
    except (OSError, RuntimeError, HTTPException) as error:  # no connection, a full disk, a wrong checksum
        reason = " ".join(str(error).split())  # torchvision's spans several lines
        raise FileNotFoundError(
            f"{name}: not found ({contents(root)}), and downloading it failed ({reason}). {by_hand}, "
            "or name the folder that has it with --data or $MIXFAST_DATA"
        ) from error


def open_downloaded(kind: str, root: Path, name: str, **arguments: Any) -> Any:
    """The torchvision data set, read from files that are there. Raises DataError if they are damaged."""
    try:
        return getattr(torchvision_datasets(), kind)(root, download=False, **arguments)
    except RuntimeError as error:  # a checksum differs
        raise DataError(f"{name}: the files in {root} are damaged or incomplete: {error}") from error
