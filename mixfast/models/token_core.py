"""What every vision transformer is to the methods: its patch grid, feature blocks, and class-attention blocks.

Legend: B samples, M inputs, N tokens, d values a token, (H', W') the patch grid of one image.
"""

from __future__ import annotations

import torch
from mixfast_kernels import Mixing
from torch import Tensor, nn

from mixfast.models.architectures import Architecture
from mixfast.models.initialisers import TRANSFORMER_STD, init_linears_and_norms_, kernel_uniform_, truncated_normal_
from mixfast.models.patches import default_patch_size, image_sides, patch_grid, resize_position
from mixfast.models.self_attention import GatedPositionalAttention, Layout
from mixfast.models.stem import Stem
from mixfast.models.transformer_blocks import NORM_EPS, ClassAttentionBlock, FeatureBlock, LayerScale


class TokenCore(nn.Module):
    """A vision transformer without its patch projection and its heads, which belong to the methods.

    Args:
        architecture: the numbers that make a ConViT or a CaiT.
        image_size: pixels squared, or (H, W); divisible by the patch size.
        patch_size: pixels squared; by default 4 for images up to 32 pixels, 8 up to 64, else 16 (thesis A.1.5).
        drop_path: the rate of stochastic depth, the same in every feature block.

    Attributes:
        architecture: as given.
        stem: the patch projection's shape; its output grid (H', W') is the mixing grid.
        position: learned position embedding [d, H', W'], added to the patches' tokens by whoever projects them.
        class_token: [d], the same for every set.
        image_size: (H, W) in pixels.
        patch_size: in pixels.
        grid: (H', W').
        num_features: d.

    Raises ValueError for sizes that do not fit each other or a rate outside 0..1.
    """

    def __init__(
        self,
        architecture: Architecture,
        image_size: int | tuple[int, int],
        patch_size: int | None = None,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.architecture = architecture
        width = self.num_features = architecture.width
        self._set_sizes(image_sides(image_size), default_patch_size(image_size) if patch_size is None else patch_size)
        self.position = nn.Parameter(torch.empty(width, *self.grid))
        self.class_token = nn.Parameter(torch.empty(width))
        self.blocks = nn.ModuleList(FeatureBlock(architecture, drop_path) for _ in range(architecture.depth))
        self.class_blocks = nn.ModuleList(ClassAttentionBlock(architecture) for _ in range(architecture.class_depth))
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.reset_parameters()

    def features(self, tokens: Tensor, *, copies: int = 1, repeats: int = 1) -> Tensor:
        """The self-attention blocks: [B, N, d] to [B, N, d].

        With `copies`, N = copies * H' * W': the tokens of several images one after another, which attend to each other;
        for positional attention a token lies where it lies in its own image. Another N: ValueError. With `repeats`, the
        result is that of as many equal copies of the given tokens, which is the same for each of them.
        """
        self._check_tokens(tokens)
        expected = copies * self.grid[0] * self.grid[1]
        if tokens.shape[1] != expected:
            raise ValueError(
                f"tokens: expected {copies} x {self.grid[0]} x {self.grid[1]} = {expected} of them (copies x grid), "
                f"got {tokens.shape[1]}"
            )
        layout = Layout(self.grid, copies, repeats)
        for block in self.blocks:
            tokens = block(tokens, layout)
        return tokens

    def classify(self, tokens: Tensor, *, source: Tensor | None = None, mixing: Mixing | None = None) -> Tensor:
        """The class-attention blocks and the last norm: tokens [B, N, d] to class tokens [B, S, d], ready for the heads.

        Args:
            tokens: what `features` returns; N is free.
            source: [M, d], embeddings that say which input a token is of, added to the tokens in every block.
            mixing: the mix of the sources on the token grid. With it token n gets the sum of w_i(n) * source_i, and
                S = 1; without, set i gets source_i everywhere, and S = M. Without a source S = 1.
        """
        self._check_tokens(tokens)
        classes = self.class_token[None, None]
        for block in self.class_blocks:
            classes = block(tokens, classes, source, mixing)
        return self.norm(classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Encoded patches with their positions, [B, H' * W', d], to one class token a sample, [B, 1, d]."""
        return self.classify(self.features(tokens))

    def resize(self, image_size: int | tuple[int, int] | None = None, patch_size: int | None = None) -> None:
        """Changes the image's or the patch's size, or both, between training and use.

        `position` becomes a new parameter, interpolated (bicubic): make optimisers afterwards. Relative positions follow the
        grid by themselves. The patch projection is not here: see `resize_patch_projection`. Raises ValueError for sizes
        that do not fit each other, and then changes nothing.
        """
        sides = self.image_size if image_size is None else image_sides(image_size)
        self._set_sizes(sides, self.patch_size if patch_size is None else patch_size)
        resized = resize_position(self.position.detach(), self.grid)
        self.position = nn.Parameter(resized, requires_grad=self.position.requires_grad)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws the core's own weights anew: matrices and embeddings truncated normal of standard deviation 0.02, biases 0,
        norms 1, LayerScale at the architecture's value; a ConViT's attention imitates a convolution."""
        truncated_normal_(self.position, std=TRANSFORMER_STD, generator=generator)
        truncated_normal_(self.class_token, std=TRANSFORMER_STD, generator=generator)
        init_linears_and_norms_(self, generator=generator)
        for module in self.modules():
            if isinstance(module, GatedPositionalAttention):
                module.reset_parameters(generator)
            elif isinstance(module, LayerScale):
                module.reset_parameters()

    def init_encoder(self, weight: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Fills patch projections [M, d, c, k, k] in place: uniform within 1 / sqrt(c*k*k), as published CaiT and ConViT."""
        return kernel_uniform_(weight, generator=generator)

    def init_head(self, weight: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Fills classifier weights [M, K, d] in place: truncated normal of standard deviation 0.02."""
        return truncated_normal_(weight, std=TRANSFORMER_STD, generator=generator)

    def _set_sizes(self, image_size: tuple[int, int], patch_size: int) -> None:
        self.grid = patch_grid(image_size, patch_size)
        self.image_size, self.patch_size = image_size, patch_size
        self.stem = Stem(channels=self.num_features, kernel_size=patch_size, stride=patch_size, padding=0)

    def _check_tokens(self, tokens: Tensor) -> None:
        if tokens.ndim != 3 or tokens.shape[2] != self.num_features:
            raise ValueError(f"tokens: expected [B, N, {self.num_features}], got shape {tuple(tokens.shape)}")
