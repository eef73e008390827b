"""A repair of Triton's interpreter (``TRITON_INTERPRET=1``), for kernels with matrix products; compiled kernels need none."""

from __future__ import annotations

import functools
import os
from typing import Any

import triton.language as tl


@functools.cache
def repair_dot() -> None:
    """Makes the interpreter's ``tl.dot`` right for bfloat16; does nothing where kernels are compiled.

    Triton 3.8's interpreter keeps bfloat16 as the integers of its bits, and multiplies those.
    """
    if os.environ.get("TRITON_INTERPRET") != "1":
        return
    from triton.runtime.interpreter import InterpreterBuilder

    create_dot = InterpreterBuilder.create_dot

    def widened(builder: Any, operand: Any) -> Any:
        bfloat16 = operand.dtype.scalar == tl.bfloat16
        return builder.create_fp_to_fp(operand, tl.float32, None) if bfloat16 else operand

    def create_dot_of_widened(builder: Any, a: Any, b: Any, *rest: Any) -> Any:
        return create_dot(builder, widened(builder, a), widened(builder, b), *rest)

    InterpreterBuilder.create_dot = create_dot_of_widened
