"""The blocks of a vision transformer, all pre-norm: self-attention for the tokens, class attention for the class tokens."""

from __future__ import annotations

import torch
from mixfast_kernels import Mixing, bias_gelu, class_attention
from torch import Tensor, nn
from torch.nn import functional as F

from mixfast.models.architectures import Architecture
from mixfast.models.linear import linear
from mixfast.models.self_attention import SELF_ATTENTIONS, Layout

NORM_EPS = 1e-6


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016): in training, each sample's branch is dropped with probability `rate`.

    Kept branches are scaled by 1 / (1 - rate). Draws from torch's default generator of the device; in evaluation, or with
    rate 0, returns its input. Raises ValueError unless 0 <= rate < 1.

    rows, batch_size: where samples are a part of a larger batch, their places in it, int64 [B]: as much is drawn as for
        all of it, and they get what they would get there. See `set_rows`.
    """

    def __init__(self, rate: float) -> None:
        if not 0 <= rate < 1:
            raise ValueError(f"drop_path: expected a rate of at least 0 and below 1, got {rate}")
        super().__init__()
        self.rate = rate
        self.rows: Tensor | None = None
        self.batch_size = 0

    def forward(self, x: Tensor) -> Tensor:
        """[B, ...] to [B, ...]."""
        if self.rate == 0 or not self.training:
            return x
        keep = 1 - self.rate
        drawn = x.shape[0] if self.rows is None else self.batch_size
        kept = x.new_empty(drawn, *(1,) * (x.ndim - 1)).bernoulli_(keep)
        kept = kept if self.rows is None else kept[self.rows]
        # Divided afterwards: 1 / keep itself, rounded to bfloat16, would be wrong by the same 0.2% every time.
        return x * kept / keep


def set_rows(module: nn.Module, rows: Tensor, batch_size: int) -> None:
    """Tells all stochastic depth in a module which samples of a batch the next ones are."""
    for part in module.modules():
        if isinstance(part, DropPath):
            part.rows, part.batch_size = rows, batch_size


class LayerScale(nn.Module):
    """One learned factor a channel (Touvron et al. 2021b); all begin at `start`, small enough to train depth."""

    def __init__(self, width: int, start: float) -> None:
        super().__init__()
        self.start = start
        self.weight = nn.Parameter(torch.empty(width))

    def forward(self, x: Tensor) -> Tensor:
        """[..., d] to [..., d]."""
        return x * self.weight

    def reset_parameters(self) -> None:
        """All factors at `start`."""
        nn.init.constant_(self.weight, self.start)


class MLP(nn.Module):
    """Linear, GELU, linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """[..., d] to [..., d]."""
        return linear(bias_gelu(F.linear(x, self.fc1.weight), self.fc1.bias), self.fc2)


def _layer_scale(architecture: Architecture) -> nn.Module:
    start = architecture.layer_scale
    return nn.Identity() if start is None else LayerScale(architecture.width, start)


class FeatureBlock(nn.Module):
    """Self-attention, then an MLP, each on normed tokens and added to them."""

    def __init__(self, architecture: Architecture, drop_path: float) -> None:
        super().__init__()
        width = architecture.width
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.attention = SELF_ATTENTIONS[architecture.attention](width, architecture.heads)
        self.scale1 = _layer_scale(architecture)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = MLP(width, architecture.mlp_ratio * width)
        self.scale2 = _layer_scale(architecture)
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens: Tensor, layout: Layout) -> Tensor:
        """[B, N, d] to [B, N, d]."""
        tokens = tokens + self.drop_path(self.scale1(self.attention(self.norm1(tokens), layout)))
        return tokens + self.drop_path(self.scale2(self.mlp(self.norm2(tokens))))


class ClassAttentionBlock(nn.Module):
    """Class tokens attend to themselves and the tokens, which stay as they are (Touvron et al. 2021b), then an MLP.

    With one query, a bias of the keys adds the same number to every score and cancels in the softmax: there is none.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        width = architecture.width
        self.heads = architecture.heads
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.proj = nn.Linear(width, width)
        self.scale1 = _layer_scale(architecture)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = MLP(width, architecture.mlp_ratio * width)
        self.scale2 = _layer_scale(architecture)

    def forward(self, tokens: Tensor, classes: Tensor, source: Tensor | None, mixing: Mixing | None) -> Tensor:
        """Tokens [B, N, d] and class tokens [B, S, d] to the new class tokens; source, mixing as `class_attention`'s."""
        attended = class_attention(
            tokens,
            classes,
            self.norm1.weight,
            self.norm1.bias,
            self.query.weight,
            self.query.bias,
            self.key.weight,
            self.value.weight,
            self.value.bias,
            num_heads=self.heads,
            source=source,
            mixing=mixing,
            eps=NORM_EPS,
        )
        classes = classes + self.scale1(linear(attended, self.proj))
        return classes + self.scale2(self.mlp(self.norm2(classes)))
