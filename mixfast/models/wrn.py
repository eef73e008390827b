"""WideResNet for CIFAR (Zagoruyko and Komodakis 2016), in the variant that MIMO and MixMo use (METHODS section 7)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixfast.models.blocks import check_width, conv1x1, conv3x3, needs_projection, residual_stages
from mixfast.models.core import Core
from mixfast.models.initialisers import truncated_he_normal_
from mixfast.models.stem import Stem

STEM_CHANNELS = 16
STAGE_CHANNELS = (16, 32, 64)


class HalvingConv3x3(nn.Conv2d):
    """Bias-free 3x3 convolution of stride 2 that pads an even side at its end only.

    Padding both ends would centre the kernel on even pixels instead of odd ones, and published weights would give other
    outputs. An odd side is padded at both ends, so the output side is always ceil(side / 2), the shortcut's.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=3, stride=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_channels, h, w] to [B, out_channels, ceil(h / 2), ceil(w / 2)]."""
        height, width = x.shape[-2:]
        left, top = width % 2, height % 2
        return super().forward(F.pad(x, (left, 1, top, 1)))


class WideBlock(nn.Module):
    """Pre-activation block whose stride is on the second convolution and whose shortcut reads the raw input."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = conv3x3(in_channels, out_channels)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = conv3x3(out_channels, out_channels) if stride == 1 else HalvingConv3x3(out_channels, out_channels)
        self.shortcut = nn.Sequential()
        if needs_projection(in_channels, out_channels, stride):
            self.shortcut.append(conv1x1(in_channels, out_channels, stride))

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_channels, h, w] to [B, out_channels, ceil(h / stride), ceil(w / stride)]."""
        out = self.conv1(F.relu(self.bn1(x)))
        out = self.conv2(F.relu(self.bn2(out)))
        return out + self.shortcut(x)


class WideResNet(Core):
    """WRN-depth-width: three stages of (16, 32, 64) * width channels, then batch norm and ReLU.

    The stem has 16 channels at every width. Raises ValueError unless depth is 6n + 4 with n >= 1 and width >= 1.
    """

    def __init__(self, depth: int, width: int) -> None:
        check_depth(depth)
        check_width(width)
        channels = [base * width for base in STAGE_CHANNELS]
        super().__init__(
            stem=Stem(channels=STEM_CHANNELS, kernel_size=3, stride=1, padding=1),
            stages=residual_stages(WideBlock, STEM_CHANNELS, channels, blocks_per_stage=(depth - 4) // 6),
            num_features=channels[-1],
        )
        self.norm = nn.BatchNorm2d(self.num_features)
        self.reset_parameters()

    def exit(self, x: Tensor) -> Tensor:
        """The last batch norm and ReLU."""
        return F.relu(self.norm(x))

    def init_head(self, weight: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Fills classifier weights [M, K, num_features] in place: truncated He-normal, fan-in num_features."""
        return truncated_he_normal_(weight, fan_in=weight.shape[-1], generator=generator)


def check_depth(depth: int) -> None:
    """Raises ValueError unless `depth` is 6n + 4, n >= 1: n blocks of two convolutions in each of three stages."""
    if depth < 10 or (depth - 4) % 6:
        nearest = 6 * max(1, round((depth - 4) / 6)) + 4
        raise ValueError(f"depth: expected 6n + 4 (10, 16, 22, 28, ...), got {depth}; the nearest is {nearest}")
