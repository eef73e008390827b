"""MixViT over ConViT or CaiT written the plain way, the opponent of the transformers' bench.

As the papers' formulas read (thesis eq. 4.5, Algorithms A.8 and A.9; d'Ascoli 2021; Touvron 2021): every input is encoded
everywhere and masks are tensors; keys and values are projected for all tokens of class attention; attention maps are
tensors, ConViT's mixed and renormalised; at inference the class-attention blocks run once for each subnetwork. What
PyTorch does well by itself (layer norm, softmax, GELU, linear layers) is PyTorch's.

Legend: B samples, M inputs, N tokens, d features, h heads of e features, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixfast.methods import MixViTNetwork
from mixfast.models import Architecture, TokenCore

EPS = 1e-6


def by_head(tokens: Tensor, heads: int) -> Tensor:
    """``[B, N, d]`` to ``[B, h, N, e]``."""
    return tokens.unflatten(-1, (heads, -1)).transpose(1, 2)


class PlainGatedPositional(nn.Module):
    """GPSA with both maps in memory, those of the positions for every sample, as published code has them."""

    def __init__(self, width: int, heads: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.heads = heads
        self.queries_keys = nn.Linear(width, 2 * width, bias=False)
        self.values = nn.Linear(width, width, bias=False)
        self.positional = nn.Linear(3, heads, bias=False)
        self.gate = nn.Parameter(torch.empty(heads))
        self.proj = nn.Linear(width, width)
        rows, columns = (axis.flatten() for axis in torch.meshgrid(*map(torch.arange, grid), indexing="ij"))
        dx, dy = columns[None] - columns[:, None], rows[None] - rows[:, None]
        self.register_buffer("offsets", torch.stack((dx, dy, dx**2 + dy**2), -1).float(), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        query, key = (by_head(part, self.heads) for part in self.queries_keys(tokens).chunk(2, -1))
        value = by_head(self.values(tokens), self.heads)
        content = (query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5).softmax(-1)
        offsets = self.offsets.expand(len(tokens), -1, -1, -1)
        positional = self.positional(offsets).permute(0, 3, 1, 2).softmax(-1)
        gate = self.gate.sigmoid()[:, None, None]
        maps = (1 - gate) * content + gate * positional
        maps = maps / maps.sum(-1, keepdim=True)
        return self.proj((maps @ value).transpose(1, 2).flatten(2))

    def copy_from(self, attention: nn.Module) -> None:
        """Takes mixfast's parameters over."""
        width = self.values.in_features
        self.queries_keys.weight.copy_(attention.qkv.weight[: 2 * width])
        self.values.weight.copy_(attention.qkv.weight[2 * width :])
        self.positional.weight.copy_(attention.positional)
        self.gate.copy_(attention.gate)
        self.proj.load_state_dict(attention.proj.state_dict())


class PlainTalkingHeads(nn.Module):
    """CaiT's self-attention with its maps in memory."""

    def __init__(self, width: int, heads: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.before, self.after = nn.Linear(heads, heads), nn.Linear(heads, heads)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = (by_head(part, self.heads) for part in self.qkv(tokens).chunk(3, -1))
        scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
        maps = self.before(scores.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).softmax(-1)
        maps = self.after(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.proj((maps @ value).transpose(1, 2).flatten(2))

    def copy_from(self, attention: nn.Module) -> None:
        """Takes mixfast's parameters over."""
        self.load_state_dict(attention.state_dict())


class PlainClassAttention(nn.Module):
    """One query, keys and values of every token."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.value, self.proj = (nn.Linear(width, width) for _ in range(3))
        self.key = nn.Linear(width, width, bias=False)

    def forward(self, seen: Tensor) -> Tensor:
        """The class token first: ``[B, 1 + N, d]`` to ``[B, 1, d]``."""
        query, key, value = (
            by_head(part, self.heads) for part in (self.query(seen[:, :1]), self.key(seen), self.value(seen))
        )
        maps = (query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5).softmax(-1)
        return self.proj((maps @ value).transpose(1, 2).flatten(2))

    def copy_from(self, block: nn.Module) -> None:
        """Takes over the parameters of mixfast's block, which holds those of its attention."""
        for name in ("query", "key", "value", "proj"):
            getattr(self, name).load_state_dict(getattr(block, name).state_dict())


ATTENTIONS = {"gated-positional": PlainGatedPositional, "talking-heads": PlainTalkingHeads}


class PlainBlock(nn.Module):
    """A pre-norm block: attention, then an MLP; LayerScale where the architecture has it."""

    def __init__(self, architecture: Architecture, attention: nn.Module) -> None:
        super().__init__()
        width = architecture.width
        self.attention = attention
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=EPS) for _ in range(2))
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        scales = (
            [None, None] if architecture.layer_scale is None else [nn.Parameter(torch.empty(width)) for _ in range(2)]
        )
        self.scale1, self.scale2 = scales

    def forward(self, tokens: Tensor) -> Tensor:
        """A block of the features."""
        tokens = tokens + self.scaled(self.attention(self.norm1(tokens)), self.scale1)
        return self.mlp(tokens)

    def classify(self, classes: Tensor, tokens: Tensor) -> Tensor:
        """A class-attention block."""
        attended = self.attention(self.norm1(torch.cat((classes, tokens), 1)))
        return self.mlp(classes + self.scaled(attended, self.scale1))

    def mlp(self, tokens: Tensor) -> Tensor:
        return tokens + self.scaled(self.fc2(F.gelu(self.fc1(self.norm2(tokens)))), self.scale2)

    @staticmethod
    def scaled(branch: Tensor, scale: Tensor | None) -> Tensor:
        return branch if scale is None else branch * scale

    def copy_from(self, block: nn.Module) -> None:
        """Takes mixfast's parameters over."""
        self.attention.copy_from(block.attention if hasattr(block, "attention") else block)
        for name, theirs in (
            ("norm1", block.norm1),
            ("norm2", block.norm2),
            ("fc1", block.mlp.fc1),
            ("fc2", block.mlp.fc2),
        ):
            getattr(self, name).load_state_dict(theirs.state_dict())
        if self.scale1 is not None:
            self.scale1.copy_(block.scale1.weight)
            self.scale2.copy_(block.scale2.weight)


class PlainMixViT(nn.Module):
    """M images and M masks to M predictions. Without sources (M = 1) it is the plain transformer.

    Args:
        core: whose shape it takes.
        network: whose parameters it takes.
    """

    def __init__(self, core: TokenCore, architecture: Architecture, network: MixViTNetwork) -> None:
        super().__init__()
        weight = network.encoder.weight
        self.encoder = nn.Conv2d(weight.shape[2], core.num_features, core.patch_size, core.patch_size)
        self.position = nn.Parameter(core.position.detach().flatten(1).T.clone())
        attention = ATTENTIONS[architecture.attention]
        size = (architecture.width, architecture.heads)
        self.blocks = nn.ModuleList(
            PlainBlock(architecture, attention(*size, core.grid)) for _ in range(architecture.depth)
        )
        self.class_blocks = nn.ModuleList(
            PlainBlock(architecture, PlainClassAttention(*size)) for _ in range(architecture.class_depth)
        )
        self.class_token = nn.Parameter(core.class_token.detach().clone())
        self.norm = nn.LayerNorm(architecture.width, eps=EPS)
        self.heads = nn.ModuleList(nn.Linear(architecture.width, len(bias)) for bias in network.heads.bias)
        self.source_bias = nn.Parameter(network.sources.bias.detach().clone())
        matrices = network.sources.weight
        self.source_weight = None if matrices is None else nn.Parameter(matrices.detach().clone())
        self._copy_from(core, network)

    @torch.no_grad()
    def _copy_from(self, core: TokenCore, network: MixViTNetwork) -> None:
        self.encoder.weight.copy_(network.encoder.weight[0])
        self.encoder.bias.copy_(network.encoder.bias[0])
        for mine, theirs in zip([*self.blocks, *self.class_blocks], [*core.blocks, *core.class_blocks], strict=True):
            mine.copy_from(theirs)
        self.norm.load_state_dict(core.norm.state_dict())
        for index, head in enumerate(self.heads):
            head.weight.copy_(network.heads.weight[index])
            head.bias.copy_(network.heads.bias[index])

    def forward(self, images: Sequence[Tensor], masks: Tensor) -> list[Tensor]:
        """Algorithm A.8: M images ``[B, c, H, W]`` and masks ``[B, M, N]`` to the heads' logits, ``[B, K]`` each."""
        mixed = sum(masks[:, i, :, None] * self.embedded(image) for i, image in enumerate(images))
        tokens = self.features(mixed + self.position)
        added = sum(masks[:, i, :, None] * self.sourced(tokens, i) for i in range(len(images)))
        features = self.classified(tokens + added)
        return [head(features) for head in self.heads]

    def predict(self, images: Tensor) -> list[Tensor]:
        """Algorithm A.9."""
        tokens = self.features(self.embedded(images) + self.position)
        return [head(self.classified(tokens + self.sourced(tokens, i))) for i, head in enumerate(self.heads)]

    def embedded(self, images: Tensor) -> Tensor:
        return self.encoder(images).flatten(2).transpose(1, 2)

    def features(self, tokens: Tensor) -> Tensor:
        for block in self.blocks:
            tokens = block(tokens)
        return tokens

    def sourced(self, tokens: Tensor, index: int) -> Tensor:
        """What the source attribution adds to tokens of input ``index``."""
        if self.source_weight is None:
            return self.source_bias[index].expand_as(tokens)
        return F.linear(tokens, self.source_weight[index], self.source_bias[index])

    def classified(self, tokens: Tensor) -> Tensor:
        classes = self.class_token.expand(len(tokens), 1, -1)
        for block in self.class_blocks:
            classes = block.classify(classes, tokens)
        return self.norm(classes)[:, 0]
