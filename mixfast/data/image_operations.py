"""Operations drawn for each image of a batch, run on the tensor's device: what AutoAugment and RandAugment share.

Which image gets what is drawn on the host; images that need the same kernel then go through it together, each at its own
magnitude.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mixfast.data.grouped import Kernel, Place, check_host_rng, check_pixels, plan_steps
from mixfast.data.kept import Kept
from mixfast.data.policy_operations import KERNELS, Operation, OperationKernel, tables_of


class ImageOperations(ABC):
    """Operations for images of one size, which their tables depend on. Subclasses draw them.

    Args:
        operations: all that may be done to an image, each once; the position is the operation's code.
        size: (H, W) of the images.
        device: of the images.

    Raises:
        ValueError: a size that is not two numbers of at least 1.
    """

    def __init__(self, operations: Sequence[Operation], size: tuple[int, int], device: torch.device | str) -> None:
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f"size must be (height, width), both at least 1, got {tuple(size)}")
        self.size, self.device = (int(size[0]), int(size[1])), torch.device(device)
        self.operations = tuple(operations)
        self._kernels = tuple(dict.fromkeys(KERNELS.values()))
        self._kind_of_code = np.array([self._kernels.index(KERNELS[operation.name]) for operation in self.operations])
        self._tables = tables_of(self.operations, self.size, self.device)

    @abstractmethod
    def draw(self, batch: int, host_rng: np.random.Generator) -> np.ndarray:
        """Codes int64 [D, B], on the host: the operations of each image, in a row."""

    def __call__(self, images: Tensor, *, host_rng: np.random.Generator, kept: Kept | None = None) -> Tensor:
        """Draws and applies operations for every image.

        images: uint8 [B, c, H, W] of the size and on the device given before, 1 or 3 channels, any strides
        host_rng: draws all that is random
        kept: which images of a larger batch these are; they get what they would get there
        Returns uint8 [B, c, H, W]. The host never waits for the device.

        Raises TypeError for an argument of the wrong type or dtype, ValueError for a wrong shape or device.
        """
        check_pixels(images, type(self).__name__)
        if images.shape[1] not in (1, 3) or images.shape[2:] != self.size:
            expected = f"[B, 1 or 3, {self.size[0]}, {self.size[1]}]"
            raise ValueError(f"images must have shape {expected}, got {tuple(images.shape)}")
        if images.device.type != self.device.type:
            raise ValueError(f"images must be on {self.device}, where the tables are, got {images.device}")
        check_host_rng(host_rng)
        if kept is None:
            return self.apply(images, self.draw(len(images), host_rng))
        return self.apply(images, self.draw(kept.total, host_rng)[:, kept.host])

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
