"""The CUDA operators with their kernels on the host (``MIXFAST_BACKEND=cuda-host``), and their libraries."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mixfast_kernels import NativeUnavailable, _native
from running import CHECKS, run_pytest


def run_checks(file, *options):
    """Runs the ``check_*`` functions of a test file over the host-run kernels."""
    run_tests(file, *CHECKS, *options)


def run_tests(file, *options):
    """Runs a whole test file over the host-run kernels."""
    build("cuda-host")
    run_pytest(file, {"MIXFAST_BACKEND": "cuda-host"}, *options)


def build(kind: str) -> Path:
    """The library of that kind; skips the test, with the reason, where this machine cannot make it."""
    try:
        return _native.built_library(kind)
    except NativeUnavailable as error:
        if "do not compile" in str(error):
            raise
        pytest.skip(str(error))


def displaced(tensor: torch.Tensor) -> torch.Tensor:
    """The same values and strides, one element off the alignment that a vector access needs."""
    buffer = torch.zeros(tensor.numel() + 1, dtype=tensor.dtype)
    return buffer.as_strided(tensor.shape, tensor.stride(), 1).copy_(tensor)
