"""AutoAugment for a whole batch on the tensor's device (Cubuk et al., "AutoAugment", CVPR 2019; thesis A.1.5).

Each image gets one sub-policy of a policy: two operations in a row, each applied or not.

An image comes out as `torchvision.transforms.v2.AutoAugment` makes it from the same draws. So geometric operations
show the nearest pixel, and what lies outside the image is black, torchvision's default. Blends with another image
(color, contrast, sharpness) may differ by one grey level where a device rounds a product and a sum otherwise than
torchvision; all else is equal. The implementation that the thesis took (github.com/DeepVoltaire/AutoAugment) has the same
policies and ranges, but fills with grey (128), interpolates shears, and rotates in one direction only.
"""

from __future__ import annotations

import numpy as np
import torch

from mixfast.data.image_operations import ImageOperations
from mixfast.data.policies import POLICIES
from mixfast.data.policy_operations import Operation, both_directions


class AutoAugment(ImageOperations):
    """AutoAugment for images of one size, which its tables depend on.

    Args:
        policy: cifar or imagenet.
        size: (H, W) of the images.
        device: of the images.

    Attributes:
        operations: all that the policy may do to an image, in both directions; the first leaves it alone. The position
            is the operation's code.

    Raises:
        ValueError: an unknown policy, or a size that is not two numbers of at least 1.
    """

    def __init__(self, policy: str, size: tuple[int, int], device: torch.device | str) -> None:
        if policy not in POLICIES:
            raise ValueError(f"policy must be one of {', '.join(POLICIES)}, got {policy!r}")
        choices = [choice for sub_policy in POLICIES[policy] for choice in sub_policy]
        directions = [both_directions(choice.name, choice.magnitude) for choice in choices]
        super().__init__(
            tuple(dict.fromkeys([Operation("none"), *(each for pair in directions for each in pair)])), size, device
        )
        # For each of the 25 sub-policies: its two operations' probabilities, and their codes in both directions.
        self._probability = np.array([choice.probability for choice in choices]).reshape(-1, 2)
        codes = [[self.operations.index(operation) for operation in pair] for pair in directions]
        self._code = np.array(codes).reshape(-1, 2, 2)

    def draw(self, batch: int, host_rng: np.random.Generator) -> np.ndarray:
        """Codes int64 [2, B] of the first and second operation of each image; 0 where one is left out."""
        sub_policy_B = host_rng.integers(len(self._code), size=batch)
        is_applied_B2 = host_rng.random((batch, 2)) < self._probability[sub_policy_B]
        direction_B2 = host_rng.integers(2, size=(batch, 2))
        code_B2 = self._code[sub_policy_B[:, None], np.arange(2), direction_B2]
        return np.where(is_applied_B2, code_B2, 0).T
