"""MIMO (Havasi 2021; thesis 3.2.2): M encoders, summed; M heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from mixfast_kernels import Mixing

from mixfast.methods.method import Method, Moment
from mixfast.mixing import sum_mixing


@dataclass(frozen=True)
class MIMO(Method):
    """Every input has weight 1/M everywhere and every head's loss weight 1.

    Args:
        inference: "sum", one pass; "separate", over a transformer only, a pass for each subnetwork (thesis 4.3.1.2).
    """

    num_inputs: int = 2
    inference: str = "sum"

    def network_options(self, num_features: int) -> dict[str, Any]:
        refuse_separate(self.inference)
        return super().network_options(num_features)

    def token_network_options(self) -> dict[str, Any]:
        return {**super().token_network_options(), "inference": self.inference}

    def draw(
        self,
        batch: int,
        grid: tuple[int, int],
        moment: Moment,
        *,
        generator: torch.Generator | None,
        device: torch.device | str,
    ) -> Mixing:
        return sum_mixing(batch, self.num_inputs, grid, device)


def refuse_separate(inference: str) -> None:
    """Refuses what convolutional networks do not have: they are trained on sums, and a pass for each input is none."""
    if inference != "sum":
        raise ValueError(f"inference must be 'sum' for a convolutional backbone, got {inference!r}")
