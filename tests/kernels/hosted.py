"""Runs checks of the CUDA operators with their kernels on the host (``MIXFAST_BACKEND=cuda-host``).

That backend is chosen when ``mixfast_kernels`` is imported, so the checks, functions called ``check_*``, run in a process of
their own, where pytest collects them instead of the tests.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mixfast_kernels import NativeUnavailable, _native

ROOT = Path(__file__).parents[2]
HOSTED = {"MIXFAST_BACKEND": "cuda-host"}


def run_checks(file: str, *options: str) -> None:
    """Runs the ``check_*`` functions of a test file over the host-run kernels; fails with what pytest printed."""
    run_tests([file], "-o", "python_functions=check_*", *options)


def run_tests(files: list[str], *options: str) -> None:
    """Runs whole test files over the host-run kernels."""
    build("cuda-host")
    environment = {**os.environ, **HOSTED, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *options, *files]
    result = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]


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


def poison(on: bool) -> None:
    """New tensors start out as NaN (integers: the largest number): an element that is never written stays one."""
    torch.use_deterministic_algorithms(on)
    torch.utils.deterministic.fill_uninitialized_memory = True
