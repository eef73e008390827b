"""RandAugment for a whole batch on the tensor's device (Cubuk et al., "RandAugment", NeurIPS 2020).

Each image gets a number of operations in a row, each drawn from the same fourteen with the same probability, all at one
magnitude. An image comes out as `torchvision.transforms.v2.RandAugment` makes it from the same draws, with the
differences that `autoaugment.py` names.
"""

from __future__ import annotations

import numpy as np
import torch

from mixfast.data.image_operations import ImageOperations
from mixfast.data.policies import GEOMETRIC
from mixfast.data.policy_operations import both_directions

STEPS = 31
"""Magnitudes: 0 to 30, as torchvision counts them."""

RANGED = (*GEOMETRIC, "brightness", "color", "contrast", "sharpness", "posterize", "solarize")
CHOICES = ("none", *RANGED, "autocontrast", "equalize")


class RandAugment(ImageOperations):
    """RandAugment for images of one size, which its tables depend on.

    Args:
        count: operations in a row, at least 1.
        magnitude: 0 to 30.
        size: (H, W) of the images.
        device: of the images.

    Raises:
        ValueError: a number out of its range, or a size that is not two numbers of at least 1.
    """

    def __init__(self, count: int, magnitude: int, size: tuple[int, int], device: torch.device | str) -> None:
        if count < 1:
            raise ValueError(f"count must be at least 1, got {count}")
        if not 0 <= magnitude < STEPS:
            raise ValueError(f"magnitude must be from 0 to {STEPS - 1}, got {magnitude}")
        self.count = count
        directions = [both_directions(name, magnitude if name in RANGED else None, STEPS) for name in CHOICES]
        super().__init__(tuple(dict.fromkeys(each for pair in directions for each in pair)), size, device)
        self._code = np.array([[self.operations.index(operation) for operation in pair] for pair in directions])

    def draw(self, batch: int, host_rng: np.random.Generator) -> np.ndarray:
        """Codes int64 [count, B]."""
        choice = host_rng.integers(len(CHOICES), size=(self.count, batch))
        return self._code[choice, host_rng.integers(2, size=(self.count, batch))]
