"""Initial values of weights (METHODS section 7); everything here works in place and takes an optional generator."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

TRUNCATION = 2.0
"""Where the truncated normal is cut, in standard deviations of the normal before the cut."""

HEAD_STD = 0.01

TRANSFORMER_STD = 0.02
"""Of every matrix, embedding and classifier of a vision transformer (DeiT, CaiT, ConViT)."""


def truncated_normal_std(cut: float) -> float:
    """Standard deviation of a unit normal conditioned on |z| <= cut."""
    density = math.exp(-cut * cut / 2) / math.sqrt(2 * math.pi)
    mass = math.erf(cut / math.sqrt(2))
    return math.sqrt(1 - 2 * cut * density / mass)


def truncated_normal_(weight: Tensor, *, std: float, generator: torch.Generator | None = None) -> Tensor:
    """Fills `weight` (any shape) with a normal cut at two sigma, of standard deviation `std` *after* the cut.

    Inverts the distribution function: torch's own rejection sampler is ten times slower and waits for the device.
    """
    std_before_cut = std / truncated_normal_std(TRUNCATION)
    bound = TRUNCATION * std_before_cut
    mass = math.erf(TRUNCATION / math.sqrt(2))
    with torch.no_grad():
        weight.uniform_(-mass, mass, generator=generator).erfinv_().mul_(math.sqrt(2) * std_before_cut)
        return weight.clamp_(-bound, bound)


def truncated_he_normal_(weight: Tensor, *, fan_in: int, generator: torch.Generator | None = None) -> Tensor:
    """Fills `weight` (any shape) with a truncated normal of standard deviation sqrt(2 / fan_in).

    Raises ValueError if fan_in is not positive.
    """
    if fan_in < 1:
        raise ValueError(f"fan_in: expected a positive number of inputs, got {fan_in}")
    return truncated_normal_(weight, std=math.sqrt(2 / fan_in), generator=generator)


def small_normal_(weight: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """Fills `weight` (any shape) with N(0, 0.01), the ResNets' choice for classifiers."""
    return nn.init.normal_(weight, std=HEAD_STD, generator=generator)


def init_convolutions_and_norms_(module: nn.Module, *, generator: torch.Generator | None = None) -> None:
    """Convolutions: truncated He-normal over their own fan-in. Batch norms: weight 1, bias 0, fresh statistics."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            truncated_he_normal_(layer.weight, fan_in=layer.weight[0].numel(), generator=generator)
        elif isinstance(layer, nn.BatchNorm2d):
            layer.reset_parameters()


def init_linears_and_norms_(module: nn.Module, *, generator: torch.Generator | None = None) -> None:
    """Linears: truncated normal of standard deviation 0.02, biases 0. Layer norms: weight 1, bias 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            truncated_normal_(layer.weight, std=TRANSFORMER_STD, generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.LayerNorm):
            layer.reset_parameters()


def kernel_uniform_(weight: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """Fills kernels [M, C, c, k, k] with U(-b, b), b = 1 / sqrt(c*k*k): torch's own choice for a convolution."""
    bound = 1 / math.sqrt(weight[0, 0].numel())
    return nn.init.uniform_(weight, -bound, bound, generator=generator)
