"""Cores of both kinds, small and with parameters that are anything but their first values."""

from __future__ import annotations

import torch
from torch import Tensor

from mixfast.models import Architecture, TokenCore

KINDS = ("gated-positional", "talking-heads")


def architecture(kind: str, *, width: int = 24, heads: int = 4, depth: int = 2) -> Architecture:
    """Two blocks by default; LayerScale where CaiT has it."""
    return Architecture(width, heads, depth, kind, 1e-5 if kind == "talking-heads" else None)


def randomised(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Every parameter drawn anew: matrices that keep sizes, vectors about 1 if they scale and about 0 if they shift."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            scales = name.endswith(("norm.weight", "norm1.weight", "norm2.weight"))
            spread = parameter.shape[-1] ** -0.5 if parameter.ndim == 2 else 0.3
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(spread * noise + (1.0 if scales else 0.0))
    return module


def small_core(
    kind: str, *, image_size: tuple[int, int] = (12, 8), drop_path: float = 0.0, **numbers: int
) -> TokenCore:
    """A float64 core on a 3 x 2 grid of 4-pixel patches, randomised, in training mode."""
    return randomised(TokenCore(architecture(kind, **numbers), image_size, 4, drop_path).double())


def tokens_for(core: TokenCore, *, batch: int = 3, copies: int = 1, seed: int = 1) -> Tensor:
    """Random tokens that ask for gradients."""
    shape = (batch, copies * core.grid[0] * core.grid[1], core.num_features)
    dtype = core.position.dtype
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype).requires_grad_()


def plain_state(core: TokenCore) -> dict[str, Tensor]:
    """Independent copies of the core's parameters that ask for gradients."""
    return {name: value.detach().clone().requires_grad_() for name, value in core.named_parameters()}
