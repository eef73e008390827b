"""Repairs of Triton's interpreter (``TRITON_INTERPRET=1``) for bfloat16; compiled kernels need none.

Every operator's file calls ``repair`` once, as it is imported.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import triton
import triton.language as tl


@functools.cache
def repair() -> None:
    """Makes ``tl.dot`` right for bfloat16, and float32 rounded to it; does nothing where kernels are compiled."""
    if not triton.knobs.runtime.interpret:
        return
    _repair_dot()
    _repair_rounding()


def _repair_dot() -> None:
    """Triton 3.8's interpreter keeps bfloat16 as the integers of its bits, and multiplies those."""
    from triton.runtime.interpreter import InterpreterBuilder

    create_dot = InterpreterBuilder.create_dot

    def widened(builder: Any, operand: Any) -> Any:
        bfloat16 = operand.dtype.scalar == tl.bfloat16
        return builder.create_fp_to_fp(operand, tl.float32, None) if bfloat16 else operand

    def create_dot_of_widened(builder: Any, a: Any, b: Any, *rest: Any) -> Any:
        return create_dot(builder, widened(builder, a), widened(builder, b), *rest)

    InterpreterBuilder.create_dot = create_dot_of_widened


def _repair_rounding() -> None:
    """Triton 3.8's interpreter cuts the lower bits off, twice the error of the hardware: to the nearest, ties to even."""
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
