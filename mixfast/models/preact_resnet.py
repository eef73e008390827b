"""PreActResNet-18 for Tiny ImageNet (He et al. 2016b), with MixMo's stem and ending (METHODS section 7)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from mixfast.models.blocks import check_width, conv1x1, conv3x3, needs_projection, residual_stages
from mixfast.models.core import Core
from mixfast.models.stem import Stem

STEM_CHANNELS = 64
STAGE_CHANNELS = (64, 128, 256, 512)


class PreActBlock(nn.Module):
    """Pre-activation block whose stride is on the first convolution and whose projection reads the activated input.

    A shortcut without a projection is the identity on the raw input, as in the architecture's source.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = conv3x3(in_channels, out_channels, stride)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = conv3x3(out_channels, out_channels)
        self.shortcut = None
        if needs_projection(in_channels, out_channels, stride):
            self.shortcut = nn.Sequential(conv1x1(in_channels, out_channels, stride))

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_channels, h, w] to [B, out_channels, ceil(h / stride), ceil(w / stride)]."""
        activated = F.relu(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(activated)
        out = self.conv1(activated)
        out = self.conv2(F.relu(self.bn2(out)))
        return out + shortcut


class PreActResNet18(Core):
    """PreActResNet-18-width: four stages of two blocks, (64, 128, 256, 512) * width channels, no norm after them.

    The stem halves the image and has 64 channels at every width. Raises ValueError unless width >= 1.
    """

    def __init__(self, width: int) -> None:
        check_width(width)
        channels = [base * width for base in STAGE_CHANNELS]
        super().__init__(
            stem=Stem(channels=STEM_CHANNELS, kernel_size=3, stride=2, padding=1),
            stages=residual_stages(PreActBlock, STEM_CHANNELS, channels, blocks_per_stage=2),
            num_features=channels[-1],
        )
        self.reset_parameters()
