"""ResNet-18 for ImageNet (He et al. 2016a) with a width factor, as in the thesis's ImageNet experiments (A.5.6)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from mixfast.models.blocks import check_width, conv1x1, conv3x3, needs_projection, residual_stages
from mixfast.models.core import Core
from mixfast.models.stem import Stem

STAGE_CHANNELS = (64, 128, 256, 512)


class BasicBlock(nn.Module):
    """Post-activation block: norm after each convolution, on the shortcut's projection too, ReLU after the sum."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, out_channels, stride)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = conv3x3(out_channels, out_channels)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Sequential()
        if needs_projection(in_channels, out_channels, stride):
            self.shortcut.append(conv1x1(in_channels, out_channels, stride))
            self.shortcut.append(nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_channels, h, w] to [B, out_channels, ceil(h / stride), ceil(w / stride)]."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.shortcut(x))


class ResNet18(Core):
    """ResNet-18-width: norm, ReLU, max pool, then four stages of two blocks, (64, 128, 256, 512) * width channels.

    The stem is 7x7 of stride 2 with 64 * width channels. Raises ValueError unless width >= 1.
    """

    def __init__(self, width: int) -> None:
        check_width(width)
        channels = [base * width for base in STAGE_CHANNELS]
        super().__init__(
            stem=Stem(channels=channels[0], kernel_size=7, stride=2, padding=3),
            stages=residual_stages(BasicBlock, channels[0], channels, blocks_per_stage=2),
            num_features=channels[-1],
        )
        self.norm = nn.BatchNorm2d(self.stem.channels)
        self.reset_parameters()

    def entry(self, x: Tensor) -> Tensor:
        """Norm and ReLU of the raw stem output, then the 3x3 max pool that halves the grid."""
        return F.max_pool2d(F.relu(self.norm(x)), kernel_size=3, stride=2, padding=1)
