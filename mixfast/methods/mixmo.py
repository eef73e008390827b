"""MixMo (thesis 3.3): MIMO whose inputs are mixed as MixUp does (linear) or as CutMix does (cut)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from mixfast_kernels import Mixing
from torch import Tensor

from mixfast.methods.method import Method, Moment
from mixfast.methods.mimo import refuse_separate
from mixfast.mixing import draw_ratios, linear_mixing, loss_weights, patch_or_linear, patch_probability


@dataclass(frozen=True)
class LinearMixMo(Method):
    """Input i has weight kappa_i everywhere, kappa ~ Dirichlet(alpha) for each sample (eq. A.3).

    Args:
        alpha: concentration of kappa (A.5.7).
        root: r of eq. 3.3, which evens out the losses of inputs of unequal size.
        encoders: "per-input" or "shared"; encoder_init: "independent", "same" or "colinear".
        heads: "per-input"; "shared", one head learns the labels in the inputs' proportion; "random", two heads learn
            the two inputs in random order; "by-ratio", the first head learns the larger input (table 3.4).
        inference: "sum", one pass; "separate", over a transformer only, a pass for each subnetwork (thesis 4.3.1.2).
    """

    num_inputs: int = 2
    alpha: float = 2.0
    root: float = 3.0
    encoders: str = "per-input"
    encoder_init: str = "independent"
    heads: str = "per-input"
    inference: str = "sum"

    def network_options(self, num_features: int) -> dict[str, Any]:
        refuse_separate(self.inference)
        return self._sharing()

    def token_network_options(self) -> dict[str, Any]:
        return {**self._sharing(), "inference": self.inference}

    def _sharing(self) -> dict[str, Any]:
        return {
            "num_inputs": self.num_inputs,
            "shared_encoder": self.encoders == "shared",
            "shared_head": self.heads == "shared",
            "encoder_init": self.encoder_init,
        }

    def draw(
        self,
        batch: int,
        grid: tuple[int, int],
        moment: Moment,
        *,
        generator: torch.Generator | None,
        device: torch.device | str,
    ) -> Mixing:
        return linear_mixing(draw_ratios(batch, self.num_inputs, self.alpha, generator=generator, device=device), grid)

    def loss_weights(self, mixing: Mixing) -> Tensor:
        ratios = mixing.ratios()
        # One head with labels in proportion has the loss of one network, as in MixUp: its weights sum to 1, not to M.
        return ratios if self.heads == "shared" else loss_weights(ratios, self.root)

    def target_order(self, mixing: Mixing, *, generator: torch.Generator | None) -> Tensor | None:
        if self.heads == "by-ratio":
            return mixing.ratios().argsort(dim=1, descending=True, stable=True)
        if self.heads == "random":
            keys = torch.rand(mixing.inside.shape, generator=generator, device=mixing.inside.device)
            return keys.argsort(1)
        return None


@dataclass(frozen=True)
class CutMixMo(LinearMixMo):
    """With probability p a batch is mixed by a binary mask (eq. 3.2; A.4 for M > 2), else linearly (Algorithm A.6).

    Args:
        mask: the family of masks (table 3.3).
        probability: p.
        anneal: whether p falls to 0 over the last twelfth of the epochs, as a sum at inference wants it.
    """

    mask: str = "rectangle"
    probability: float = 0.5
    anneal: bool = True

    def draw(
        self,
        batch: int,
        grid: tuple[int, int],
        moment: Moment,
        *,
        generator: torch.Generator | None,
        device: torch.device | str,
    ) -> Mixing:
        return patch_or_linear(
            draw_ratios(batch, self.num_inputs, self.alpha, generator=generator, device=device),
            grid,
            probability=patch_probability(self.probability, moment.epoch, moment.epochs)
            if self.anneal
            else self.probability,
            mask=self.mask,
            generator=generator,
        )

    def visible_inputs(self) -> int:
        """All of them in a batch that is mixed linearly, which only a cut in every batch rules out."""
        return visible_in_cut(self.num_inputs) if self.probability == 1 and not self.anneal else self.num_inputs


def visible_in_cut(num_inputs: int) -> int:
    """One inside the mask; outside, the others in proportion (eq. A.4)."""
    return max(1, num_inputs - 1)
