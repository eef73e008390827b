"""MIMO (Havasi 2021; thesis 3.2.2): M encoders, summed; M heads."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from mixfast_kernels import Mixing

from mixfast.methods.method import Method, Moment
from mixfast.mixing import sum_mixing


@dataclass(frozen=True)
class MIMO(Method):
    """Every input has weight 1/M everywhere and every head's loss weight 1."""

    num_inputs: int = 2

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
