"""AutoAugment for a whole batch on the tensor's device (Cubuk et al., "AutoAugment", CVPR 2019; thesis A.1.5).

Each image gets one sub-policy of a policy: two operations in a row, each applied or not. Which image gets what is drawn
on the host; images that need the same kernel then go through it together, each at its own magnitude.

An image comes out as `torchvision.transforms.v2.AutoAugment` makes it from the same draws. So geometric operations
show the nearest pixel, and what lies outside the image is black, torchvision's default. Blends with another image
(color, contrast, sharpness) may differ by one grey level where a device rounds a product and a sum otherwise than
torchvision; all else is equal. The implementation that the thesis took (github.com/DeepVoltaire/AutoAugment) has the same
policies and ranges, but fills with grey (128), interpolates shears, and rotates in one direction only.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mixfast.data.grouped import Kernel, Place, check_host_rng, check_pixels, plan_steps
from mixfast.data.kept import Kept
from mixfast.data.policies import POLICIES, SIGNED
from mixfast.data.policy_operations import KERNELS, Operation, OperationKernel, tables_of


class AutoAugment:
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
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f"size must be (height, width), both at least 1, got {tuple(size)}")
        self.size, self.device = (int(size[0]), int(size[1])), torch.device(device)
        choices = [choice for sub_policy in POLICIES[policy] for choice in sub_policy]
        directions = [
            [Operation(choice.name, choice.magnitude, sign if choice.name in SIGNED else 1) for sign in (1, -1)]
            for choice in choices
        ]
        self.operations = tuple(dict.fromkeys([Operation("none"), *(each for pair in directions for each in pair)]))
        # For each of the 25 sub-policies: its two operations' probabilities, and their codes in both directions.
        self._probability = np.array([choice.probability for choice in choices]).reshape(-1, 2)
        codes = [[self.operations.index(operation) for operation in pair] for pair in directions]
        self._code = np.array(codes).reshape(-1, 2, 2)
        self._kernels = tuple(dict.fromkeys(KERNELS.values()))
        self._kind_of_code = np.array([self._kernels.index(KERNELS[operation.name]) for operation in self.operations])
        self._tables = tables_of(self.operations, self.size, self.device)

    def __call__(self, images: Tensor, *, host_rng: np.random.Generator, kept: Kept | None = None) -> Tensor:
        """Draws and applies a sub-policy for every image.

        images: uint8 [B, c, H, W] of the size and on the device given before, 1 or 3 channels, any strides
        host_rng: draws all that is random
        kept: which images of a larger batch these are; they get what they would get there
        Returns uint8 [B, c, H, W]. The host never waits for the device.

        Raises TypeError for an argument of the wrong type or dtype, ValueError for a wrong shape or device.
        """
        check_pixels(images, "AutoAugment")
        if images.shape[1] not in (1, 3) or images.shape[2:] != self.size:
            expected = f"[B, 1 or 3, {self.size[0]}, {self.size[1]}]"
            raise ValueError(f"images must have shape {expected}, got {tuple(images.shape)}")
        if images.device.type != self.device.type:
            raise ValueError(f"images must be on {self.device}, where the tables are, got {images.device}")
        check_host_rng(host_rng)
        if kept is None:
            return self.apply(images, self.draw(len(images), host_rng))
        return self.apply(images, self.draw(kept.total, host_rng)[:, kept.host])

    def draw(self, batch: int, host_rng: np.random.Generator) -> np.ndarray:
        """Codes int64 [2, B] of the first and second operation of each image; 0 where one is left out."""
        sub_policy_B = host_rng.integers(len(self._code), size=batch)
        is_applied_B2 = host_rng.random((batch, 2)) < self._probability[sub_policy_B]
        direction_B2 = host_rng.integers(2, size=(batch, 2))
        code_B2 = self._code[sub_policy_B[:, None], np.arange(2), direction_B2]
        return np.where(is_applied_B2, code_B2, 0).T

    def apply(self, images: Tensor, codes: np.ndarray) -> Tensor:
        """Runs given operations: a pure function of images, as for a call, and of codes int64 [D, B], on the host.

        Raises ValueError if the codes are for another batch size.
        """
        if codes.ndim != 2 or codes.shape[1] != len(images):
            raise ValueError(f"codes must have shape [D, {len(images)}], as images has, got {codes.shape}")
        steps = plan_steps(codes, self._kind_of_code, len(images), images.device)

        def with_tables(kernel: OperationKernel) -> Kernel:
            def on_group(pixels: Tensor, place: Place) -> Tensor:
                return kernel(pixels, self._tables, steps.codes[place])

            return on_group

        return steps.run(images, [with_tables(kernel) for kernel in self._kernels])
