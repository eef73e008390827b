"""What every convolutional backbone is to the methods: a description of its stem, then stages run one after another."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mixfast.models.initialisers import init_convolutions_and_norms_, small_normal_, truncated_he_normal_
from mixfast.models.stem import Stem


class Core(nn.Module):
    """A backbone without its stem convolution and its heads, which belong to the methods.

    `forward` maps raw stem output [B, stem.channels, h, w] to features [B, num_features, h', w'] that are ready to be
    mean-pooled. A method that has to act between stages (Manifold MixUp) runs `entry`, each of `stages`, `exit` itself.
    """

    def __init__(self, stem: Stem, stages: Sequence[nn.Module], num_features: int) -> None:
        super().__init__()
        self.stem = stem
        self.stages = nn.ModuleList(stages)
        self.num_features = num_features

    def entry(self, x: Tensor) -> Tensor:
        """What lies between the raw stem output [B, stem.channels, h, w] and the first stage."""
        return x

    def exit(self, x: Tensor) -> Tensor:
        """What lies between the last stage and the mean pool; keeps the shape [B, num_features, h', w']."""
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Raw stem output [B, stem.channels, h, w] to features [B, num_features, h', w']; other shapes: ValueError."""
        if x.ndim != 4 or x.shape[1] != self.stem.channels:
            raise ValueError(f"x: expected stem output [B, {self.stem.channels}, h, w], got shape {tuple(x.shape)}")
        x = self.entry(x)
        for stage in self.stages:
            x = stage(x)
        return self.exit(x)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws the core's own weights anew (METHODS section 7) and forgets batch-norm statistics."""
        init_convolutions_and_norms_(self, generator=generator)

    def init_encoder(self, weight: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Fills stem kernels [M, C, c, k, k] in place: independent truncated He-normal with fan-in c*k*k."""
        return truncated_he_normal_(weight, fan_in=weight[0, 0].numel(), generator=generator)

    def init_head(self, weight: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Fills classifier weights [M, K, num_features] in place as the family wants; here N(0, 0.01)."""
        return small_normal_(weight, generator=generator)
