"""Runs a test file's checks of Triton operators in Triton's interpreter, and watches what the kernels touch.

The interpreter is chosen when Triton is imported, so the checks, functions called ``check_*``, run in a process of their
own, where pytest collects them instead of the tests.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode

ROOT = Path(__file__).parents[2]
BAND = 64  # elements before and behind a guarded tensor
PATTERN = 77


def run_checks(file: str) -> None:
    """Runs the ``check_*`` functions of a test file under the interpreter; fails with what pytest printed."""
    _run(file, {"MIXFAST_BACKEND": "triton", "TRITON_INTERPRET": "1"}, "-o", "python_functions=check_*")


def _run(file: str, variables: dict[str, str], *options: str) -> None:
    # The child's threads would only get in each other's way: the interpreter is Python.
    environment = {**os.environ, **variables, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, file]
    result = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]


def spills(operator: str, only: str = "") -> dict[str, int]:
    """Spilling instructions of every kernel of an operator's cases (those whose name has ``only``), on every target."""
    specification = importlib.util.spec_from_file_location("aot_tool", ROOT / "tools" / "aot.py")
    tool = importlib.util.module_from_spec(specification)
    sys.modules["aot_tool"] = tool  # dataclasses look their module up
    specification.loader.exec_module(tool)
    found = {}
    for case in tool.all_cases([operator]):
        if only in case.name:
            for kernel, machines in tool.measure(case, list(tool.CARDS))["kernels"].items():
                found |= {f"{case.name}, {kernel}, {target}": m["spills"] for target, m in machines.items()}
    assert found, f"no case of {operator} is called {only}"
    return found


def guarded(tensor: torch.Tensor | None) -> torch.Tensor | None:
    """The same values and strides, with NaN (an impossible number, for integers) before and behind."""
    if tensor is None or tensor.numel() == 0:
        return tensor
    extent = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    if tensor.is_floating_point():
        fill = torch.nan
    else:
        fill = True if tensor.dtype == torch.bool else torch.iinfo(tensor.dtype).max
    buffer = torch.full((extent + 2 * BAND,), fill, dtype=tensor.dtype)
    inner = buffer.as_strided(tensor.shape, tensor.stride(), BAND)
    return inner.copy_(tensor) if 0 not in tensor.stride() else tensor


class GuardedResults(TorchDispatchMode):
    """Every tensor that a launcher makes for its kernels to fill lies full of NaN inside a larger buffer, whose rest must
    survive: checked on leaving."""

    def __enter__(self) -> GuardedResults:
        self.buffers = []
        return super().__enter__()

    def __exit__(self, *error) -> None:
        super().__exit__(*error)
        assert self.buffers, "nothing was allocated"
        for buffer in self.buffers:
            assert (buffer[:BAND] == PATTERN).all() and (buffer[-BAND:] == PATTERN).all(), "written outside a result"

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func is not torch.ops.aten.new_empty.default or result.numel() == 0:
            return result
        buffer = torch.full((result.numel() + 2 * BAND,), PATTERN, dtype=result.dtype)
        inner = buffer[BAND:-BAND]
        inner.fill_(torch.nan if result.is_floating_point() else PATTERN - 1)
        self.buffers.append(buffer)
        return inner.view(result.shape)


def assert_within_twice(got, plain, exact, name=""):
    """At most twice the error of the same-dtype PyTorch form against float64, or a few roundings of float32 (float64) sums."""
    assert got.shape == exact.shape, name
    if exact.numel() == 0:
        return
    assert got.dtype == plain.dtype, name
    sums = torch.promote_types(got.dtype, torch.float32)
    floor = 4 * torch.finfo(sums).eps * exact.abs().max()
    error, allowed = (got.double() - exact).abs().max(), 2 * (plain.double() - exact).abs().max() + floor
    assert error <= allowed, f"{name}: off by {error:.3g}, allowed {allowed:.3g}"


def as_double(value):
    """A floating-point tensor in float64; anything else as it is."""
    return value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value
