"""single: the plain network, one input and one head; the baseline of every table."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from mixfast_kernels import Mixing

from mixfast.methods.method import Method, Moment
from mixfast.mixing import single_mixing


@dataclass(frozen=True)
class Single(Method):
    """The backbone itself. MixUp, CutMix and Manifold MixUp come from the recipe's ``msda`` section."""

    def draw(
        self,
        batch: int,
        grid: tuple[int, int],
        moment: Moment,
        *,
        generator: torch.Generator | None,
        device: torch.device | str,
    ) -> Mixing:
        return single_mixing(batch, grid, device)
