"""In what precision the Triton kernels add and multiply."""

from __future__ import annotations

import torch
import triton.language as tl

# Triton's names of the dtypes that products take.
OPERANDS = {
    torch.float32: tl.float32,
    torch.float64: tl.float64,
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
}


def sums_of(dtype: torch.dtype) -> tl.dtype:
    """Sums are taken in float32, those of float64 in float64."""
    return tl.float64 if dtype == torch.float64 else tl.float32


def products_of(dtype: torch.dtype) -> str:
    """``tl.dot``'s input precision: TF32 for float32 where PyTorch's own products may use it."""
    return "tf32" if dtype == torch.float32 and torch.backends.cuda.matmul.allow_tf32 else "ieee"
