"""Argument checks shared by the operators: every message names the argument, what came and what was expected."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def check_tensor(
    value: object,
    name: str,
    shape: Sequence[int | str],
    dtypes: Sequence[torch.dtype],
    device: torch.device | None = None,
) -> None:
    """Refuses anything but a tensor of this shape (a letter stands for any size), one of these dtypes, on this device.

    Raises:
        TypeError: not a tensor, or another dtype.
        ValueError: another shape or device.
    """
    # The message is put together only when it is needed: compiled code cannot trace it, and every call would pay for it.
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be {_wanted(shape, dtypes)}, got {type(value).__name__}")
    if value.dtype not in dtypes:
        raise TypeError(f"{name} must be {_wanted(shape, dtypes)}, got {value.dtype}")
    fits = value.dim() == len(shape) and all(
        isinstance(want, str) or size == want for size, want in zip(value.shape, shape, strict=True)
    )
    if not fits:
        raise ValueError(f"{name} must be {_wanted(shape, dtypes)}, got shape {tuple(value.shape)}")
    if device is not None and value.device != device:
        raise ValueError(f"{name} must be on {device} like the first argument, got {value.device}")


def _wanted(shape: Sequence[int | str], dtypes: Sequence[torch.dtype]) -> str:
    names = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
    return f"a tensor [{', '.join(map(str, shape))}] of {names}"


def check_statistics(
    mean: Sequence[float] | Tensor | None, std: Sequence[float] | Tensor | None, channels: int
) -> tuple[list[float] | None, list[float] | None]:
    """Per-channel mean and standard deviation as plain numbers (constants to a kernel), or None and None."""
    if (mean is None) != (std is None):
        raise ValueError("mean and std must be given together")
    if mean is None or std is None:
        return None, None
    numbers = []
    for name, values in (("mean", mean), ("std", std)):
        listed = values.tolist() if isinstance(values, Tensor) else [float(v) for v in values]
        if len(listed) != channels:
            raise ValueError(f"{name} must hold {channels} numbers, one a channel; got {len(listed)}")
        numbers.append(listed)
    if min(numbers[1]) <= 0:
        raise ValueError(f"std must be positive, got {numbers[1]}")
    return numbers[0], numbers[1]
