"""Which entries of a batch one process works on, where what is random is drawn for the whole batch.

Every process draws the same numbers, as many as one process alone would, and picks its own out: so a batch is the same
batch on any number of processes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mixfast.data.grouped import to_device


@dataclass(frozen=True, eq=False)
class Kept:
    """Some of `total` entries, in an order.

    total: how many entries there are, and so how many draws
    host: int64 [n], their places, for what is drawn on the host
    device: the same as a tensor on the training device
    """

    total: int
    host: np.ndarray
    device: Tensor

    @staticmethod
    def of(places: Tensor, total: int, device: torch.device) -> Kept:
        """places: int64 [n], on the CPU."""
        host = places.numpy()
        return Kept(total, host, to_device(host, device))

    def each(self, parts: int) -> Kept:
        """The entries of the kept ones where each has `parts` of them, side by side."""
        host = (self.host[:, None] * parts + np.arange(parts)).reshape(-1)
        offsets = torch.arange(parts, device=self.device.device)
        return Kept(self.total * parts, host, (self.device[:, None] * parts + offsets).flatten())
