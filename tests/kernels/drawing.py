"""Draws of mixes, attention and layouts of images that the operators' tests share."""

from __future__ import annotations

import torch
from mixfast_kernels import Mixing


def draw_mixing(kind, batch, inputs, grid, dtype=torch.float32, seed=0):
    """A mix with random zone weights and a zone of the given kind: "none", "box", "bitmap" or "coverage"."""
    generator = torch.Generator().manual_seed(seed)
    inside = torch.rand(batch, inputs, generator=generator).to(dtype)
    outside = torch.rand(batch, inputs, generator=generator).to(dtype)
    if kind == "box":
        height, width = grid
        rows = torch.randint(height + 1, (batch, 2), generator=generator).sort(1).values
        columns = torch.randint(width + 1, (batch, 2), generator=generator).sort(1).values
        box = torch.stack((rows[:, 0], columns[:, 0], rows[:, 1], columns[:, 1]), 1).int()
        return Mixing(inside, outside, grid, box=box)
    if kind == "bitmap":
        return Mixing(inside, outside, grid, bitmap=torch.rand(batch, *grid, generator=generator) < 0.4)
    if kind == "coverage":
        return Mixing(inside, outside, grid, bitmap=torch.rand(batch, *grid, generator=generator).to(dtype))
    return Mixing(inside, outside, grid)


def laid_out(images, layout):
    """The same values as contiguous, channels-last, or strided memory, or expanded from one channel."""
    if layout == "channels_last":
        return images.contiguous(memory_format=torch.channels_last)
    if layout == "strided":
        return torch.stack((images, images), -1)[..., 0]
    if layout == "expanded":
        return images[:, :1].expand_as(images)
    return images


def randn(*shape, seed):
    """Float64, always the same."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def draw_attention(batch, count, heads, width, dtype=torch.float64):
    """qkv ``[B, N, 3, h, e]``, positional ``[h, N, N]`` and gate ``[h]``, as a GPSA layer has them."""
    qkv, positional = randn(batch, count, 3, heads, width, seed=1), (2 * randn(heads, count, count, seed=2)).softmax(2)
    return qkv.to(dtype), positional.to(dtype), randn(heads, seed=3).sigmoid().to(dtype)
