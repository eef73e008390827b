"""A repair of Triton's interpreter (``TRITON_INTERPRET=1``): bfloat16 that is rounded as the hardware rounds it."""

from __future__ import annotations

import functools
import os
from typing import Any

import numpy as np
import triton.language as tl


@functools.cache
def repair_rounding() -> None:
    """Makes the interpreter round float32 to the nearest bfloat16, ties to even; does nothing where kernels are compiled.

    Triton 3.8's interpreter cuts the lower bits off, which is twice the error.
    """
    if os.environ.get("TRITON_INTERPRET") != "1":
        return
    from triton.runtime import interpreter

    convert = interpreter._convert_float

    def convert_rounding(values: np.ndarray, source: Any, target: Any, mode: Any) -> np.ndarray:
        if source == tl.bfloat16 and target == tl.float32:
            return values.astype(np.uint32) << 16
        if source == tl.float32 and target == tl.bfloat16:
            return _to_bfloat16(np.ascontiguousarray(values).view(np.uint32))
        return convert(values, source, target, mode)

    interpreter._convert_float = convert_rounding


def _to_bfloat16(bits: np.ndarray) -> np.ndarray:
    """From the bits of float32 to those of bfloat16."""
    is_nan = (bits & 0x7FFFFFFF) > 0x7F800000
    rounded = (bits.astype(np.uint64) + 0x7FFF + (bits >> 16 & 1)) >> 16
    return np.where(is_nan, 0x7FC0, rounded).astype(np.uint16)
