"""The root of the errors that a person can mend; the command line shows them as one line."""

from __future__ import annotations


class MixfastError(RuntimeError):
    """Something about the run, its files or this machine, not a defect of the program."""


class UnavailableError(MixfastError):
    """What was asked for cannot be had on this machine."""
