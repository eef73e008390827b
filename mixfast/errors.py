"""The root of the errors that a person can mend; the command line shows them as one line."""

from __future__ import annotations

from rich.console import Console


class MixfastError(RuntimeError):
    """Something about the run, its files or this machine, not a defect of the program."""


# What a person can mend: shown as one line. Anything else is a defect of ours and keeps its traceback.
EXPECTED = (MixfastError, ValueError, OSError)


class UnavailableError(MixfastError):
    """What was asked for cannot be had on this machine."""


def print_error(message: str) -> None:
    """The one line, on the error output."""
    Console(stderr=True).print(f"mixfast: error: {message}", style="red", markup=False, highlight=False)
