"""MixShare (thesis 3.4, A.6, Algorithm A.7): MixMo whose subnetworks may share features.

The mask that mixed the inputs also unmixes the last features, so that one feature can describe each input in turn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from mixfast_kernels import Mixing

from mixfast.methods.method import Moment
from mixfast.methods.mixmo import CutMixMo, visible_in_cut
from mixfast.methods.network import MultiInputNetwork
from mixfast.mixing import cut_mixing, draw_ratios, unmix_fade


@dataclass(frozen=True)
class MixShare(CutMixMo):
    """Cut mixing in every batch, encoders that start alike, unmixing before the pooling, losses not evened out (A.6.1).

    Args:
        unmix_fraction: the share of the channels that is unmixed; 1 is all, 0.25 the "partial" variant.
        fade_epochs: "fadeout": the epoch by which unmixing has faded out; 0 never fades.
    """

    root: float = 1.0
    encoder_init: str = "same"
    unmix_fraction: float = 1.0
    fade_epochs: int = 100

    def network_options(self, num_features: int) -> dict[str, Any]:
        unmixed = round(self.unmix_fraction * num_features)
        return {**super().network_options(num_features), "unmixed_channels": unmixed}

    def token_network_options(self) -> dict[str, Any]:
        raise ValueError("MixShare needs a convolutional backbone: it unmixes features before they are pooled")

    def draw(
        self,
        batch: int,
        grid: tuple[int, int],
        moment: Moment,
        *,
        generator: torch.Generator | None,
        device: torch.device | str,
    ) -> Mixing:
        kappa = draw_ratios(batch, self.num_inputs, self.alpha, generator=generator, device=device)
        return cut_mixing(kappa, grid, mask=self.mask, generator=generator)

    def visible_inputs(self) -> int:
        return visible_in_cut(self.num_inputs)

    def begin_epoch(self, network: MultiInputNetwork, moment: Moment) -> None:
        network.fade.fill_(unmix_fade(moment.epoch, self.fade_epochs))
