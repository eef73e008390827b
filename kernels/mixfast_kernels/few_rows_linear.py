"""few-rows-linear: a linear layer of so few rows that reading its matrix is all it costs.

    y[r] = W x[r] + b,    r < 8

That is the class tokens of one image: M of them where a plain network has one. Each row of the matrix is read once, for all
rows of ``x``, so that M rows take the time of one; matrix libraries are made for more rows, and read it more slowly for two.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mixfast_kernels._check import FLOATS, check_tensor
from mixfast_kernels._register import register_op

MAX_ROWS = 8


def few_rows_linear_reference(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Plain PyTorch: ``[..., K]`` to ``[..., N]``."""
    return F.linear(x, weight, bias)


def _fake(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


def _flops(x: tuple[int, ...], weight: tuple[int, ...], *_: Any, **__: Any) -> int:
    return 2 * math.prod(x) * weight[0]


_few_rows_linear = register_op(
    "few_rows_linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor",
    few_rows_linear_reference,
    _fake,
    differentiable_reference=True,
    autocast_inputs=(0, 1, 2),
    flops=_flops,
)


def few_rows_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``torch.nn.functional.linear`` of at most 8 rows.

    On the CPU the C++ operator reads each of the matrix's rows once for all rows of ``x``; sums are float32 (float64 for
    float64). Elsewhere it is torch's own. The gradient is that of torch's own everywhere.

    Args:
        x: ``[..., K]``, at most 8 rows in all.
        weight: ``[N, K]``, in the dtype of ``x``.
        bias: ``[N]`` likewise, or None.

    Returns:
        ``[..., N]``, in the dtype of ``x``; under autocast in autocast's.

    Raises:
        TypeError, ValueError: an argument has the wrong type, dtype, shape or device, or ``x`` has more than 8 rows.
    """
    check_tensor(weight, "weight", ("N", "K"), FLOATS)
    outputs, inputs = weight.shape
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a tensor [..., {inputs}] of {weight.dtype}, got {type(x).__name__}")
    if x.dim() < 1:
        raise ValueError(f"x must be a tensor [..., {inputs}], got shape {tuple(x.shape)}")
    check_tensor(x, "x", (*("B",) * (x.dim() - 1), inputs), (weight.dtype,), weight.device)
    rows = math.prod(x.shape[:-1])
    if rows > MAX_ROWS:
        raise ValueError(f"x must have at most {MAX_ROWS} rows in all, got {rows} in {tuple(x.shape)}")
    if bias is not None:
        check_tensor(bias, "bias", (outputs,), (weight.dtype,), weight.device)
    return _few_rows_linear(x, weight, bias)


def suits_few_rows(x: Tensor, weight: Tensor) -> bool:
    """Whether ``few_rows_linear`` is the fast way to multiply ``x [..., K]``: on the CPU, few rows, and no gradient is taken."""
    few = 0 < math.prod(x.shape[:-1]) <= MAX_ROWS and x.dtype == weight.dtype
    return few and x.device.type == "cpu" and not torch.is_grad_enabled()
