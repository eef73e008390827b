"""The two self-attentions of the feature blocks: ConViT's gated positional one and CaiT's talking heads.

Legend: B samples, N tokens, d values a token, h heads of e = d / h values, (H, W) the grid of one image's tokens.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from mixfast_kernels import gated_positional_attention, talking_heads_attention
from torch import Tensor, nn

from mixfast.models.initialisers import TRANSFORMER_STD, truncated_normal_
from mixfast.models.linear import linear

LOCALITY_STRENGTH = 1.0
"""How sharply a fresh GPSA head looks at its one offset (ConViT's alpha)."""


class Layout(NamedTuple):
    """Where N = copies * H * W tokens lie: `copies` images of one `grid` (H, W), one after another, rows first.

    Each token stands for `repeats` equal ones, of which only one is computed.
    """

    grid: tuple[int, int]
    copies: int = 1
    repeats: int = 1


class GatedPositionalAttention(nn.Module):
    """GPSA (D'Ascoli et al. 2021): per head, a learned gate between attention by content and by relative position.

    The score of a key at offset (dx, dy) from its query is `positional @ (dx, dy, dx^2 + dy^2)`. A constant added to it
    would cancel in the softmax, so there is none.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.positional = nn.Parameter(torch.empty(heads, 3))
        self.gate = nn.Parameter(torch.empty(heads))
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor, layout: Layout) -> Tensor:
        """[B, N, d] to [B, N, d]."""
        qkv = self.qkv(tokens).unflatten(-1, (3, self.heads, -1))
        attended = gated_positional_attention(qkv, self.position_map(layout), self.gate.sigmoid())
        return linear(attended.flatten(2), self.proj)

    def position_map(self, layout: Layout) -> Tensor:
        """The positional softmax [h, N, N], in float32 at least: the same for every sample.

        A score is a sum of one part in dx and one in dy, so the softmax over an image's keys is the product of a softmax
        over columns and one over rows. Copies share their positions, so each holds an equal part of the whole.
        """
        height, width = layout.grid
        weight = self.positional.to(torch.promote_types(self.positional.dtype, torch.float32))
        columns = _axis_softmax(weight[:, 0], weight[:, 2], width)
        rows = _axis_softmax(weight[:, 1], weight[:, 2], height)
        one_image = (rows[:, :, None, :, None] * columns[:, None, :, None, :]).flatten(3, 4).flatten(1, 2)
        if layout.copies == 1:
            return one_image
        return one_image.repeat(1, layout.copies, layout.copies) / layout.copies

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Imitates a convolution: identity values, and each head looks at one offset of a square kernel.

        The kernel has floor(sqrt(h)) squared offsets; heads beyond those begin with nearly uniform maps. The gates begin
        at sigmoid(1). Query, key and output weights are left as they are.
        """
        width = self.qkv.in_features
        nn.init.eye_(self.qkv.weight[2 * width :])
        nn.init.ones_(self.gate)
        truncated_normal_(self.positional, std=TRANSFORMER_STD, generator=generator)
        side = int(self.heads**0.5)
        centre = (side - 1) / 2
        for head in range(side * side):
            dx, dy = head // side - centre, head % side - centre
            # -|delta - (dx, dy)|^2 up to a constant: highest where the key lies at that offset.
            for feature, value in enumerate((2 * dx, 2 * dy, -1.0)):
                self.positional[head, feature] = LOCALITY_STRENGTH * value


def _axis_softmax(linear: Tensor, square: Tensor, size: int) -> Tensor:
    """softmax over keys of `linear * delta + square * delta^2`, delta = key - query on one axis: [h, size, size]."""
    places = torch.arange(size, device=linear.device, dtype=linear.dtype)
    delta = places - places[:, None]
    return (linear[:, None, None] * delta + square[:, None, None] * delta.square()).softmax(-1)


class TalkingHeadsAttention(nn.Module):
    """Attention whose heads are mixed linearly before and after the softmax (Shazeer et al. 2020), as CaiT has it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.before = nn.Linear(heads, heads)
        self.after = nn.Linear(heads, heads)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor, layout: Layout) -> Tensor:
        """[B, N, d] to [B, N, d]; where tokens lie does not matter.

        Equal keys share a softmax's mass, but what is added after the softmax is added to each of them.
        """
        qkv = self.qkv(tokens).unflatten(-1, (3, self.heads, -1))
        before, after = self.before, self.after
        bias_after = after.bias * layout.repeats
        attended = talking_heads_attention(qkv, before.weight, before.bias, after.weight, bias_after)
        return linear(attended.flatten(2), self.proj)


SELF_ATTENTIONS = {"gated-positional": GatedPositionalAttention, "talking-heads": TalkingHeadsAttention}
