"""Which implementation of the operators each kind of device runs, as ``MIXFAST_BACKEND`` and the machine say."""

from __future__ import annotations

import importlib.util
import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

from mixfast_kernels import _native, _triton
from mixfast_kernels._native import NativeUnavailable

VARIABLE = "MIXFAST_BACKEND"
CHOICES = ("reference", "native", "triton")


@dataclass(frozen=True)
class Backend:
    """Which implementation of the operators a kind of device runs.

    Attributes:
        name: ``"native"`` (C++), ``"triton"``, or ``"reference"`` (plain PyTorch).
        reason: why it is the reference; None where it is not.
        library: the loaded library of a native backend; None for the others.
    """

    name: str
    reason: str | None = None
    library: Path | None = None


_backends: dict[str, Backend] = {}


def backends() -> dict[str, Backend]:
    """What each device type runs: ``{"cpu": Backend(...), "cuda": Backend(...)}``, the second whether or not there is a GPU."""
    return dict(_backends)


def load() -> None:
    """Puts faster operators over the references: by default C++ on the CPU and Triton on CUDA devices, where they can be had.

    ``MIXFAST_BACKEND=reference`` leaves the references; ``native`` makes it an error that there is no C++ library;
    ``triton`` that there is no Triton, and under ``TRITON_INTERPRET=1`` the CPU runs the Triton operators too.

    Raises:
        ValueError: ``MIXFAST_BACKEND`` has another value.
        NativeUnavailable: the backend it asks for cannot be had; the message says why.
    """
    wanted = os.environ.get(VARIABLE, "")
    if wanted and wanted not in CHOICES:
        raise ValueError(f"{VARIABLE} must be one of {', '.join(CHOICES)}, or unset; got {wanted!r}")
    if wanted == "reference":
        _backends.update(dict.fromkeys(("cpu", "cuda"), Backend("reference", f"{VARIABLE}=reference")))
        return
    interpreted = wanted == "triton" and os.environ.get("TRITON_INTERPRET") == "1"
    _backends["cuda"] = _load_triton("CUDA", required=wanted == "triton")
    _backends["cpu"] = _load_triton("CPU", required=True) if interpreted else _load_native(required=wanted == "native")


def _load_native(required: bool) -> Backend:
    try:
        library = _native.built_library()
        _load_library(library)
    except NativeUnavailable as error:
        if required:
            raise
        warnings.warn(f"mixfast_kernels: slower reference operators on the CPU: {error}", stacklevel=4)
        return Backend("reference", str(error))
    return Backend("native", library=library)


def _load_library(library: Path) -> None:
    try:
        torch.ops.load_library(library)
    except OSError as error:
        raise NativeUnavailable(f"cannot load {library}: {error}") from error


def _load_triton(device: str, required: bool) -> Backend:
    if importlib.util.find_spec("triton") is None:
        reason = "the package triton is not installed"
        if required:
            raise NativeUnavailable(reason)
        return Backend("reference", reason)
    _triton.register(device)
    return Backend("triton")
