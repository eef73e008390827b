"""When ``torch.compile`` pays."""

from __future__ import annotations

import shutil

import torch

from mixfast.errors import UnavailableError

# Compiling takes a minute or so, saves about a fifth of a step, and processors sustain a few hundred GFLOP/s: below
# this much work in a whole run the minute is never won back. Counted rather than timed, so that a run and its resume
# decide alike: compiled and eager steps round differently.
CPU_FLOPS_WORTH_COMPILING = 2e14


def should_compile(choice: str, device: torch.device, step_flops: float, steps: int) -> bool:
    """Whether to compile the step, for ``training.compile`` = ``on``, ``off`` or ``auto``.

    Args:
        choice: the setting.
        device: where the step runs.
        step_flops: floating-point operations of one training step.
        steps: how many steps the whole run has.

    Raises:
        UnavailableError: ``on``, but there is no compiler for this device.
    """
    if choice == "off":
        return False
    missing = missing_compiler(device)
    if choice == "on":
        if missing:
            raise UnavailableError(
                f"training.compile=on cannot work here: {missing}. Use training.compile=auto or off."
            )
        return True
    if missing:
        return False
    return device.type == "cuda" or step_flops * steps >= CPU_FLOPS_WORTH_COMPILING


def missing_compiler(device: torch.device) -> str | None:
    """Why ``torch.compile`` cannot work on this device; None where it can."""
    if device.type == "cuda":
        return None if torch.utils._triton.has_triton() else "triton is not installed"
    if device.type != "cpu":
        return f"no compiler for device {device.type!r}"
    found = any(shutil.which(name) for name in ("g++", "clang++", "c++"))
    return None if found else "no C++ compiler (g++ or clang++) on the PATH"
