"""MixViT (thesis 4.3.3): inputs share the patches, and late in the network each token learns which input it shows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from mixfast_kernels import Mixing
from torch import Tensor

from mixfast.methods.method import Method, Moment
from mixfast.methods.mixvit_network import MixViTNetwork
from mixfast.mixing import patch_cut_mixing, patch_probability, sum_mixing
from mixfast.models import Core, TokenCore


@dataclass(frozen=True)
class MixViT(Method):
    """Every patch shows one input; losses are weighed by the inputs' shares (eq. 4.4). The base of its variants.

    Args:
        alpha: concentration of the mixing ratio (A.1.5).
        mask: the family of masks, drawn in pixels and decided patch by patch.
        place: of the source attribution, "late" or "early" (table 4.6).
        tokens: "mixed", or "all" tokens of all inputs (table 4.6).
        inference: "separate", "sum", "alternating" or "single" (table 4.6).
        patch_size: pixels a side of a patch; ``fitted_to`` takes it from the backbone.
    """

    num_inputs: int = 2
    alpha: float = 0.5
    mask: str = "rectangle"
    place: str = "late"
    tokens: str = "mixed"
    inference: str = "separate"
    patch_size: int = 1

    attribution: ClassVar[str] = "none"

    def network(self, core: Core | TokenCore, num_classes: int, **common: Any) -> MixViTNetwork:
        if not isinstance(core, TokenCore):
            raise ValueError("MixViT needs a transformer (convit, cait-xs24, ...): it attributes tokens to inputs")
        return MixViTNetwork(
            core,
            num_classes,
            num_inputs=self.num_inputs,
            attribution=self.attribution,
            place=self.place,
            tokens=self.tokens,
            inference=self.inference,
            **common,
        )

    def fitted_to(self, core: TokenCore) -> MixViT:
        return replace(self, patch_size=core.patch_size)

    def draw(
        self,
        batch: int,
        grid: tuple[int, int],
        moment: Moment,
        *,
        generator: torch.Generator | None,
        device: torch.device | str,
    ) -> Mixing:
        if self.tokens == "all":
            return sum_mixing(batch, self.num_inputs, grid, device)
        return patch_cut_mixing(
            batch,
            self.num_inputs,
            grid,
            patch_size=self.patch_size,
            alpha=self.alpha,
            probability=patch_probability(1.0, moment.epoch, moment.epochs),
            mask=self.mask,
            generator=generator,
            device=device,
        )

    def visible_inputs(self) -> int:
        """One: every patch shows one input."""
        return 1

    def loss_weights(self, mixing: Mixing) -> Tensor:
        return mixing.ratios()


@dataclass(frozen=True)
class MixViTEmbedding(MixViT):
    """A vector an input is added to its tokens (eq. 4.6)."""

    attribution: ClassVar[str] = "embedding"


@dataclass(frozen=True)
class MixViTEncoding(MixViT):
    """A linear layer an input is applied to its tokens, with a residual connection (eq. 4.5)."""

    attribution: ClassVar[str] = "encoding"
