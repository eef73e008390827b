"""bias-GELU: what stands between the two layers of a transformer's MLP.

    y = z * Phi(z),    z = x + b,    Phi the normal distribution function

(Hendrycks & Gimpel 2016, without the tanh approximation.) Backward, with phi the density:

    x' = grad * (Phi(z) + z * phi(z)),    b' = sum of x' over rows

On the CPU both gradients come from one reading of ``x`` and ``grad``, with one exponential an element, which Phi and phi
share. Elsewhere it is left to torch and its compiler, which make one kernel of it as it stands.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mixfast_kernels._check import FLOATS, check_tensor
from mixfast_kernels._register import register_op


def bias_gelu_reference(x: Tensor, bias: Tensor) -> Tensor:
    """Plain PyTorch: ``[..., C]`` and ``[C]`` to ``[..., C]``, summed in float32 at least."""
    sums = torch.promote_types(x.dtype, torch.float32)
    return F.gelu(x.to(sums) + bias.to(sums)).to(x.dtype)


def bias_gelu_backward_reference(grad: Tensor, x: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of x and bias."""
    sums = torch.promote_types(x.dtype, torch.float32)
    z = x.to(sums) + bias.to(sums)
    density = (z.square() * -0.5).exp() * math.sqrt(0.5 / math.pi)
    grad_z = grad.to(sums) * (torch.special.ndtr(z) + z * density)
    return grad_z.to(x.dtype), grad_z.sum_to_size(bias.shape).to(bias.dtype)


def _fake(x: Tensor, bias: Tensor) -> Tensor:
    return x.new_empty(x.shape)


def _backward_fake(grad: Tensor, x: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), bias.new_empty(bias.shape)


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
    return _bias_gelu_backward(grad, *ctx.saved_tensors)


_bias_gelu = register_op(
    "bias_gelu(Tensor x, Tensor bias) -> Tensor",
    bias_gelu_reference,
    _fake,
    setup_context=_setup_context,
    backward=_backward,
)
_bias_gelu_backward = register_op(
    "bias_gelu_backward(Tensor grad, Tensor x, Tensor bias) -> (Tensor, Tensor)",
    bias_gelu_backward_reference,
    _backward_fake,
    differentiable_reference=True,
)


def bias_gelu(x: Tensor, bias: Tensor) -> Tensor:
    """GELU of ``x + bias``: the middle of an MLP whose first layer multiplies only (thesis A.1.5's backbones).

    Args:
        x: ``[..., C]``, float32, float64, bfloat16 or float16.
        bias: ``[C]``, any of these.

    Returns:
        ``[..., C]`` in the dtype of ``x``, contiguous; on the CPU what is rounded to it was computed in float32 at least.

    Raises:
        TypeError, ValueError: an argument has the wrong type, dtype, shape or device.
    """
    if not isinstance(x, Tensor) or x.dim() < 1:
        raise TypeError(
            f"x must be a tensor [..., C], got {tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__}"
        )
    check_tensor(x, "x", (*("R",) * (x.dim() - 1), "C"), FLOATS)
    check_tensor(bias, "bias", (x.shape[-1],), FLOATS, x.device)
    if x.device.type != "cpu":
        return F.gelu(x + bias.to(x.dtype))
    return _bias_gelu(x, bias)
