"""Argument checks shared by the drawing functions. They look at shapes and types only: reading values would sync."""

from __future__ import annotations

import math
from collections.abc import Collection
from difflib import get_close_matches

import torch
from torch import Tensor


def checked_grid(grid: tuple[int, int]) -> tuple[int, int]:
    """``grid`` as two plain integers (height, width), or a ValueError."""
    if len(grid) != 2 or min(grid) < 1:
        raise ValueError(f"grid must be (height, width), both at least 1; got {tuple(grid)}")
    return int(grid[0]), int(grid[1])


def check_kappa(kappa: Tensor, dims: str) -> None:
    """Refuses anything but a floating-point tensor with one dimension for each letter of ``dims``, such as ``"BM"``."""
    expected = f"kappa must be a floating-point tensor [{', '.join(dims)}]"
    if not isinstance(kappa, Tensor) or not kappa.is_floating_point():
        raise TypeError(f"{expected}; got {kappa.dtype if isinstance(kappa, Tensor) else type(kappa).__name__}")
    if kappa.ndim != len(dims):
        raise ValueError(f"{expected}; got shape {tuple(kappa.shape)}")


def check_generator(generator: torch.Generator | None, device: torch.device) -> None:
    """Refuses a generator that lives on another kind of device than the tensors it is to fill."""
    if generator is not None and generator.device.type != device.type:
        raise ValueError(f"generator must live on {device.type} like the tensors it fills; it is on {generator.device}")


def check_probability(name: str, value: float) -> None:
    """Refuses a number outside 0..1 (and NaN)."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must lie in 0..1, got {value!r}")


def check_positive(name: str, value: float) -> None:
    """Refuses zero, negative numbers and NaN; infinity passes."""
    if not value > 0:
        raise ValueError(f"{name} must be greater than 0, got {value!r}")


def check_concentration(name: str, value: float) -> None:
    """Refuses anything but a positive, finite number."""
    check_positive(name, value)
    if math.isinf(value):
        raise ValueError(f"{name} must be finite, got {value!r}")


def check_count(name: str, value: int, minimum: int) -> None:
    """Refuses a whole number below ``minimum``."""
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value!r}")


def check_name(argument: str, value: str, known: Collection[str]) -> None:
    """Refuses a name that is not in ``known``, and suggests the nearest one that is."""
    if value in known:
        return
    near = get_close_matches(str(value), known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"unknown {argument} {value!r}: expected one of {', '.join(known)}{hint}")
