"""Sizes of images and patches, and what is resampled when they change between training and use."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

PATCH_SIZES = ((32, 4), (64, 8))
LARGEST_PATCH = 16

RESAMPLINGS = ("area", "bicubic")


def image_sides(image_size: int | tuple[int, int]) -> tuple[int, int]:
    """(H, W) in pixels of a square's side or of (H, W) itself; raises ValueError unless both are positive integers."""
    sides = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise ValueError(f"image_size: expected a positive number of pixels or (height, width), got {image_size!r}")
    return sides


def default_patch_size(image_size: int | tuple[int, int]) -> int:
    """The thesis's patch by the longer side (A.1.5): 4 up to 32 pixels, 8 up to 64, else 16."""
    longest = max(image_sides(image_size))
    return next((patch for limit, patch in PATCH_SIZES if longest <= limit), LARGEST_PATCH)


def patch_grid(image_size: tuple[int, int], patch_size: int) -> tuple[int, int]:
    """(H', W'), the patches of an image of (H, W) pixels.

    Raises ValueError unless the patch is positive and divides both sides.
    """
    if not isinstance(patch_size, int) or patch_size < 1:
        raise ValueError(f"patch_size: expected a positive number of pixels, got {patch_size!r}")
    height, width = image_size
    if height % patch_size or width % patch_size:
        raise ValueError(f"image_size: expected sides that the patch size {patch_size} divides, got {image_size}")
    return height // patch_size, width // patch_size


def resize_position(position: Tensor, grid: tuple[int, int]) -> Tensor:
    """A position embedding [d, H', W'] on another grid, a contiguous copy in its dtype.

    Bicubic, with antialiasing where it shrinks.
    """
    resized = position
    if position.shape[1:] != grid:
        wide = F.interpolate(_wide(position[None]), grid, mode="bicubic", antialias=True, align_corners=False)
        resized = wide[0].to(position.dtype)
    return resized.clone(memory_format=torch.contiguous_format)


def resize_patch_projection(weight: Tensor, size: int, mode: str = "area") -> Tensor:
    """Patch projections [M, d, c, k, k] for patches of `size` pixels: [M, d, c, size, size] in the dtype of `weight`.

    Values are resampled and divided by the growth in pixels, (size / k)^2, so that a patch of one colour keeps its token.
    "area" averages the kernel over the area of each new pixel. For size = f * k the new projection of an image is then
    exactly the old projection of that image averaged over f x f pixels; for size = k / f, that of each pixel repeated
    f x f times. "bicubic" (antialiased) is smoother between sizes that do not divide each other, and keeps the token of
    one colour only nearly.

    Raises ValueError for weights that are not [M, d, c, k, k], a size below 1 or another mode.
    """
    if weight.ndim != 5 or weight.shape[3] != weight.shape[4]:
        raise ValueError(f"weight: expected [M, d, c, k, k], got shape {tuple(weight.shape)}")
    if size < 1:
        raise ValueError(f"size: expected a positive number of pixels, got {size}")
    if mode not in RESAMPLINGS:
        raise ValueError(f"mode: expected one of {', '.join(RESAMPLINGS)}, got {mode!r}")
    side = weight.shape[-1]
    if size == side:
        return weight.clone()
    smooth = {"antialias": True, "align_corners": False} if mode == "bicubic" else {}
    resized = F.interpolate(_wide(weight.flatten(0, 1)), (size, size), mode=mode, **smooth) * (side / size) ** 2
    return resized.unflatten(0, weight.shape[:2]).to(weight.dtype)


def _wide(values: Tensor) -> Tensor:
    """Interpolation in float32 at least."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
