"""The shape of a backbone's first convolution, which the methods own and the backbone only describes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Stem:
    """A square convolution from image channels to `channels`; its output grid is the mixing grid."""

    channels: int
    kernel_size: int
    stride: int
    padding: int

    def grid(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """The stem's output size (H', W') for images of `image_size` (H, W), both in pixels.

        Raises ValueError if the padded image is smaller than the kernel.
        """
        smallest = max(1, self.kernel_size - 2 * self.padding)
        if min(image_size) < smallest:
            raise ValueError(f"image_size: expected sides of at least {smallest} pixels, got {image_size}")
        height, width = ((side + 2 * self.padding - self.kernel_size) // self.stride + 1 for side in image_size)
        return height, width
