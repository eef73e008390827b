"""The operations of AutoAugment and RandAugment on groups of 8-bit images, each image at a magnitude of its own.

An operation's code is its position in a list of operations. What it needs besides the images is worked out once, for
every code, and a group picks its rows by its codes.

Legend of the dimension suffixes: O operations, G those of them that are geometric, n the images of a group, c channels,
H and (in image shapes only) W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from mixfast.data.grouped import posterize_solarize, to_device
from mixfast.data.policies import GEOMETRIC, MAGNITUDES, SIGNED

# What the last magnitude reaches; the first does nothing. The paper's ranges, and 150 / 331 of a side for translations,
# which the paper gives as 150 of the 331 pixels that its images have.
_MAX_SHEAR = 0.3
_MAX_TRANSLATION = 150 / 331
_MAX_ROTATION_DEGREES = 30.0
_MAX_BLEND = 0.9
_POSTERIZE_BITS = 4
_WHITE = 255


class Operation(NamedTuple):
    """An operation at one magnitude (0 to steps - 1; None where it has no range) in one direction (+1 or -1)."""

    name: str
    magnitude: int | None = None
    sign: int = 1
    steps: int = MAGNITUDES


def both_directions(name: str, magnitude: int | None, steps: int = MAGNITUDES) -> list[Operation]:
    """The operation at a magnitude and at its negative; twice the same where it has no direction."""
    return [Operation(name, magnitude, sign if name in SIGNED else 1, steps) for sign in (1, -1)]


@dataclass(frozen=True)
class Tables:
    """What operations need besides images, by their code; rows that a kernel never reads hold anything.

    keep: uint8 [O], the bits that posterize keeps; all for solarize and invert
    threshold: int16 [O], what solarize and invert invert from; 256 for posterize
    own, other: float32 [O], the shares of a blend: the image's own, and that of the image it is blended with
    row: int64 [O], a geometric operation's row of source
    source: int32 [G, H * W], the pixel that each pixel shows after a geometric operation; -1 outside the image: black
    """

    keep: Tensor
    threshold: Tensor
    own: Tensor
    other: Tensor
    row: Tensor
    source: Tensor


def tables_of(operations: Sequence[Operation], size: tuple[int, int], device: torch.device) -> Tables:
    """The tables for these operations on images of size (H, W)."""
    own_O = np.array([1 + _strength(operation, _MAX_BLEND) for operation in operations])
    geometric = [operation for operation in operations if operation.name in GEOMETRIC]
    row_O = [geometric.index(operation) if operation in geometric else 0 for operation in operations]
    sources = [_source(operation, size) for operation in geometric]
    return Tables(
        keep=to_device(np.array([_kept_bits(operation) for operation in operations], np.uint8), device),
        threshold=to_device(np.array([_threshold(operation) for operation in operations], np.int16), device),
        own=to_device(own_O.astype(np.float32), device),
        other=to_device((1 - own_O).astype(np.float32), device),
        row=to_device(np.array(row_O), device),
        source=to_device(np.stack(sources), device),
    )


def _strength(operation: Operation, largest: float) -> float:
    """The signed amount, on float32's even steps from 0 to `largest` as torchvision has them."""
    steps = torch.linspace(0.0, largest, operation.steps)
    return operation.sign * float(steps[operation.magnitude or 0])


def _kept_bits(operation: Operation) -> int:
    """The bit mask of posterize: 8 bits at magnitude 0, 4 at the last one."""
    if operation.name != "posterize":
        return 255
    dropped = round(operation.magnitude * _POSTERIZE_BITS / (operation.steps - 1))
    return 256 - 2**dropped


def _threshold(operation: Operation) -> int:
    """The least value that is inverted; 256 for none."""
    if operation.name == "invert":
        return 0
    return math.ceil(_WHITE - _strength(operation, _WHITE)) if operation.name == "solarize" else 256


def _source(operation: Operation, size: tuple[int, int]) -> np.ndarray:
    """Which pixel each pixel shows, int32 [H * W], -1 for none: what torchvision does to an image of pixel numbers."""
    height, width = size
    # float32, in which torchvision moves 8-bit images too, holds these numbers exactly up to 2^24 pixels.
    number = torch.arange(1, height * width + 1, dtype=torch.float32).view(1, height, width)
    if operation.name == "rotate":
        moved = tv.rotate_image(number, angle=_strength(operation, _MAX_ROTATION_DEGREES))
    else:
        axis = "xy".index(operation.name[-1])
        shift, shear, centre = [0, 0], [0.0, 0.0], None
        if operation.name.startswith("translate"):
            shift[axis] = int(_strength(operation, _MAX_TRANSLATION * (width, height)[axis]))
        else:
            shear[axis], centre = math.degrees(math.atan(_strength(operation, _MAX_SHEAR))), [0, 0]
        moved = tv.affine_image(number, angle=0.0, translate=shift, scale=1.0, shear=shear, center=centre)
    return moved.flatten().numpy().astype(np.int32) - 1


def _nothing(pixels: Tensor, tables: Tables, codes: Tensor) -> Tensor:
    return pixels


def _equalize(pixels: Tensor, tables: Tables, codes: Tensor) -> Tensor:
    return tv.equalize_image(pixels)


def _autocontrast(pixels: Tensor, tables: Tables, codes: Tensor) -> Tensor:
    return tv.autocontrast_image(pixels)


def _pointwise(pixels: Tensor, tables: Tables, codes: Tensor) -> Tensor:
    return posterize_solarize(pixels, tables.keep[codes], tables.threshold[codes])


def _geometric(pixels: Tensor, tables: Tables, codes: Tensor) -> Tensor:
    source_n1P = tables.source.index_select(0, tables.row[codes])[:, None]
    from_pixel = source_n1P.clamp(min=0).long().expand(-1, pixels.shape[1], -1)
    return pixels.flatten(2).gather(2, from_pixel).mul_(source_n1P >= 0).view_as(pixels)


def _brightness(pixels: Tensor, tables: Tables, codes: Tensor) -> Tensor:
    return _to_pixels(pixels * tables.own[codes][:, None, None, None])


def _color(pixels: Tensor, tables: Tables, codes: Tensor) -> Tensor:
    return pixels if pixels.shape[1] == 1 else _blended(pixels, tv.rgb_to_grayscale_image(pixels), tables, codes)


def _contrast(pixels: Tensor, tables: Tables, codes: Tensor) -> Tensor:
    mean_n111 = tv.rgb_to_grayscale_image(pixels).float().mean((1, 2, 3), keepdim=True)
    return _blended(pixels, mean_n111, tables, codes)


def _sharpness(pixels: Tensor, tables: Tables, codes: Tensor) -> Tensor:
    """Away from (or towards) the image under a filter of 3x3 weights: 5 in the middle, 1 around. The border stays."""
    if min(pixels.shape[2:]) < 3:
        return pixels
    values = pixels.float()
    inner = values[:, :, 1:-1, 1:-1]
    # Sums of whole numbers, and halves of 13 are none: nothing here depends on how a device rounds.
    rows = values[:, :, :-2] + values[:, :, 1:-1] + values[:, :, 2:]
    all_nine = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    blurred = all_nine.add_(inner, alpha=4).div_(13).round_()
    inner.addcmul_(blurred - inner, tables.other[codes][:, None, None, None])
    return _to_pixels(values)


def _blended(pixels: Tensor, degenerate: Tensor, tables: Tables, codes: Tensor) -> Tensor:
    """own * pixels + other * degenerate, truncated to 8 bits; `own` above 1 leads away from the degenerate image."""
    own_n111, other_n111 = (share[codes][:, None, None, None] for share in (tables.own, tables.other))
    return _to_pixels(torch.addcmul(pixels * own_n111, degenerate, other_n111))


def _to_pixels(values: Tensor) -> Tensor:
    return values.clamp_(0, _WHITE).to(torch.uint8)


OperationKernel = Callable[[Tensor, Tables, Tensor], Tensor]
"""From uint8 [n, c, H, W], the tables and the codes int64 [n] to uint8 [n, c, H, W]."""

KERNELS: dict[str, OperationKernel] = {
    "none": _nothing,
    "equalize": _equalize,
    "autocontrast": _autocontrast,
    **dict.fromkeys(("posterize", "solarize", "invert"), _pointwise),
    **dict.fromkeys(GEOMETRIC, _geometric),
    "brightness": _brightness,
    "color": _color,
    "contrast": _contrast,
    "sharpness": _sharpness,
}
"""What runs an operation, by its name; operations that share a kernel can be run in one group."""
