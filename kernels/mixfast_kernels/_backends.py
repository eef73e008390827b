"""Which implementation of the operators each kind of device runs, as ``MIXFAST_BACKEND`` and the machine say."""

from __future__ import annotations

import importlib.util
import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

from mixfast_kernels import _cuda, _native, _triton
from mixfast_kernels._build import NativeUnavailable

VARIABLE = "MIXFAST_BACKEND"
CHOICES = ("reference", "native", "triton", "cuda", "cuda-host")


@dataclass(frozen=True)
class Backend:
    """Which implementation of the operators a kind of device runs.

    Attributes:
        name: ``"native"`` (C++), ``"triton"``, ``"cuda"`` (CUDA C++), ``"cuda-host"`` (its kernels on the host, for
            tests), or ``"reference"`` (plain PyTorch).
        reason: why it is the reference; None where it is not.
        library: the loaded library of a C++ or CUDA backend; None for the others.
    """

    name: str
    reason: str | None = None
    library: Path | None = None


_backends: dict[str, Backend] = {}


def backends() -> dict[str, Backend]:
    """What each device type runs: ``{"cpu": Backend(...), "cuda": Backend(...)}``, the second whether or not there is a GPU."""
    return dict(_backends)


def load() -> None:
    """Puts faster operators over the references, where they can be had.

    By default C++ on the CPU; on CUDA devices Triton, or the CUDA library where Triton is not installed. (Of that one
    ``mixed_cross_entropy``, ``source_attribution`` and the attention operators keep their references.)
    ``MIXFAST_BACKEND`` chooses:

    - ``reference``: the references everywhere.
    - ``native``: as by default, but it is an error that there is no C++ library.
    - ``triton``: that there is no Triton is an error; under ``TRITON_INTERPRET=1`` the CPU runs its operators too.
    - ``cuda``: CUDA devices run the CUDA library; that it cannot be had is an error.
    - ``cuda-host``: the CPU runs the CUDA library's kernels, for tests.

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
    _backends["cuda"] = _load_for_cuda(wanted)
    _backends["cpu"] = _load_for_cpu(wanted)


def _load_for_cpu(wanted: str) -> Backend:
    if wanted == "cuda-host":
        return _load_cuda_library("cuda-host", "CPU")
    if wanted == "triton" and os.environ.get("TRITON_INTERPRET") == "1":
        return _load_triton("CPU")
    try:
        return Backend("native", library=_loaded("cpu"))
    except NativeUnavailable as error:
        return _without_library("CPU", error, required=wanted == "native")


def _load_for_cuda(wanted: str) -> Backend:
    if wanted == "cuda":
        return _load_cuda_library("cuda", "CUDA")
    if wanted == "triton" or importlib.util.find_spec("triton") is not None:
        return _load_triton("CUDA")
    if torch.cuda.device_count() == 0:
        # Building takes a minute: not where nothing would run it.
        return Backend("reference", "the package triton is not installed, and there is no CUDA device to build for")
    try:
        return _load_cuda_library("cuda", "CUDA")
    except NativeUnavailable as error:
        return _without_library("GPU", error, required=False)


def _without_library(device: str, error: NativeUnavailable, required: bool) -> Backend:
    if required:
        raise error
    warnings.warn(f"mixfast_kernels: slower reference operators on the {device}: {error}", stacklevel=5)
    return Backend("reference", str(error))


def _loaded(kind: str) -> Path:
    library = _native.built_library(kind)
    try:
        torch.ops.load_library(library)
    except OSError as error:
        raise NativeUnavailable(f"cannot load {library}: {error}") from error
    return library


def _load_cuda_library(kind: str, key: str) -> Backend:
    library = _loaded(kind)
    _cuda.register(key)
    return Backend(kind, library=library)


def _load_triton(key: str) -> Backend:
    if importlib.util.find_spec("triton") is None:
        raise NativeUnavailable("the package triton is not installed")
    _triton.register(key)
    return Backend("triton")
