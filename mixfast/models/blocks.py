"""The pieces that every residual backbone here is put together from."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

Block = Callable[[int, int, int], nn.Module]
"""Makes a residual block from (in_channels, out_channels, stride)."""


def conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """Bias-free 3x3 convolution, padded by one pixel on every side."""
    return nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False)


def conv1x1(in_channels: int, out_channels: int, stride: int) -> nn.Conv2d:
    """Bias-free 1x1 convolution: the projection of a shortcut whose ends differ in shape."""
    return nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False)


def needs_projection(in_channels: int, out_channels: int, stride: int) -> bool:
    """Whether a block's input and output differ in shape, so that its shortcut can't be the identity."""
    return stride != 1 or in_channels != out_channels


def residual_stages(
    block: Block, in_channels: int, stage_channels: Sequence[int], blocks_per_stage: int
) -> list[nn.Sequential]:
    """Stages of equal depth: the first keeps the grid, each later one halves it in its first block."""
    stages = []
    for index, out_channels in enumerate(stage_channels):
        stride = 1 if index == 0 else 2
        first = block(in_channels, out_channels, stride)
        rest = [block(out_channels, out_channels, 1) for _ in range(blocks_per_stage - 1)]
        stages.append(nn.Sequential(first, *rest))
        in_channels = out_channels
    return stages


def check_width(width: int) -> None:
    """Raises ValueError unless `width`, the factor on a family's channels, is positive."""
    if width < 1:
        raise ValueError(f"width: expected a positive integer, got {width}")
