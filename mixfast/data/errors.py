"""What can go wrong with data, and the one helper that words an unknown name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DataError(ValueError):
    """The data are there but cannot be used as they are; the message says which part and why."""


class CorruptImageError(DataError):
    """An image file cannot be decoded, and leaving it out was not asked for."""


class OutOfMemoryError(DataError):
    """The decoded split would not fit into the memory that is free."""


class CacheWriteError(OSError):
    """The decoded cache could not be written; nothing half-written stays behind."""


class DataWarning(UserWarning):
    """Training goes on, but not quite as asked: a file left out, a cache rebuilt or not written."""


def unknown_name(argument: str, got: object, known: Iterable[str]) -> str:
    """The message for a name that is not one of `known`: names the argument, suggests the nearest valid name."""
    known = list(known)
    nearest = difflib.get_close_matches(str(got), known, n=1, cutoff=0.5)
    suggestion = f"; did you mean {nearest[0]!r}?" if nearest else ""
    return f"{argument} is {got!r}, expected one of: {', '.join(known)}{suggestion}"
