"""Random erasing of normalised images (Zhong et al., "Random Erasing Data Augmentation", AAAI 2020; thesis A.1.5).

An erased image loses one rectangle to noise from N(0, 1), drawn for each pixel and channel. The settings are those of
DeiT, which the thesis takes over: the rectangle has 0.02 to 1/3 of the image's area, uniformly, and a ratio of height
to width of 0.3 to 1/0.3, uniformly in its logarithm; sides are rounded to whole pixels.

The paper draws sides until they fit into the image, which would make the host wait. Here a fixed number of tries is drawn
at once and the first that fits is taken. In a square image a try fails with a probability below 0.03, so that
the difference is never seen. Who is erased is drawn on the host: only those images are touched.

Legend of the dimension suffixes: B batch, E erased images, T tries, c channels, H and (in image shapes only) W pixels,
X = W * c the entries of a row.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from mixfast.data.grouped import check_generator, check_host_rng, to_device
from mixfast.data.kept import Kept

MIN_AREA, MAX_AREA = 0.02, 1 / 3
MIN_ASPECT = 0.3
TRIES = 10


def random_erasing(
    images: Tensor,
    probability: float,
    *,
    host_rng: np.random.Generator,
    generator: torch.Generator,
    kept: Kept | None = None,
) -> Tensor:
    """Erases a rectangle of each image with the given probability.

    images: floating point [B, c, H, W], normalised, any strides
    probability: that an image is erased, 0 to 1
    host_rng: draws who is erased
    generator: on the images' device, draws rectangles and noise
    kept: which images of a larger batch these are; they get what they would get there
    Returns a tensor like images, in channels-last memory. The host never waits for the device.

    Raises TypeError for an argument of the wrong type or dtype, ValueError for a wrong shape, range or device.
    """
    if not isinstance(images, Tensor) or not images.is_floating_point():
        got = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"images must be a floating-point tensor, normalised, got {got}")
    if images.dim() != 4 or 0 in images.shape[1:]:
        raise ValueError(f"images must have shape [B, c, H, W] with at least one pixel, got {tuple(images.shape)}")
    if not 0 <= probability <= 1:
        raise ValueError(f"probability must lie in 0..1, got {probability!r}")
    check_host_rng(host_rng)
    check_generator(generator, images.device)
    is_erased = host_rng.random(len(images) if kept is None else kept.total) < probability
    drawn = int(is_erased.sum())
    own_is_erased = is_erased if kept is None else is_erased[kept.host]
    index_E = to_device(np.flatnonzero(own_is_erased), images.device)
    box_E4 = draw_rectangles(drawn, images.shape[2:], generator=generator)
    # Rows of pixels with their channels side by side, as channels-last images have them in memory.
    rows_BHX = images.permute(0, 2, 3, 1).flatten(2)
    kept_EHX = rows_BHX.index_select(0, index_E)
    noise_EHX = torch.randn((drawn, *kept_EHX.shape[1:]), generator=generator, device=images.device).to(images.dtype)
    if kept is not None:  # of the rectangles and the noise of the larger batch, those of these images
        own_E = to_device((is_erased.cumsum() - 1)[kept.host[own_is_erased]], images.device)
        box_E4, noise_EHX = box_E4[own_E], noise_EHX[own_E]
    mixed_EHX = torch.where(_inside(box_E4, images.shape[1:]), noise_EHX, kept_EHX)
    return rows_BHX.index_copy(0, index_E, mixed_EHX).unflatten(2, (-1, images.shape[1])).permute(0, 3, 1, 2)


def draw_rectangles(count: int, size: tuple[int, int], *, generator: torch.Generator) -> Tensor:
    """Rectangles int64 [E, 4] on the generator's device: top, left, bottom, right, half open, within (H, W).

    Sides are smaller than the image's, as in DeiT's implementation. Empty where no try fits, as in an image of one row.
    """
    height, width = size
    device = generator.device
    area_TE, aspect_TE = torch.rand((2, TRIES, count), generator=generator, device=device)
    area_TE = (MIN_AREA + (MAX_AREA - MIN_AREA) * area_TE) * (height * width)
    aspect_TE = ((2 * aspect_TE - 1) * math.log(1 / MIN_ASPECT)).exp()
    sides_T2E = torch.stack([area_TE * aspect_TE, area_TE / aspect_TE], 1).sqrt().round().long()
    fits_TE = (sides_T2E[:, 0] < height) & (sides_T2E[:, 1] < width)
    first_E = fits_TE.int().argmax(0)
    sides_2E = sides_T2E.gather(0, first_E.expand(1, 2, count))[0] * fits_TE.any(0)
    room_2E = torch.stack([height - sides_2E[0], width - sides_2E[1]])
    start_2E = (torch.rand((2, count), generator=generator, device=device) * (room_2E + 1)).long()
    return torch.cat([start_2E, start_2E + sides_2E]).T


def _inside(box_E4: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Whether an entry of an image of shape (c, H, W) lies in the rectangle, bool [E, H, X]."""
    channels, height, width = shape
    top, left, bottom, right = box_E4[:, :, None].unbind(1)
    row_H = torch.arange(height, device=box_E4.device)
    column_X = torch.arange(width * channels, device=box_E4.device) // channels
    in_rows_EH = (row_H >= top) & (row_H < bottom)
    in_columns_EX = (column_X >= left) & (column_X < right)
    return in_rows_EH[:, :, None] & in_columns_EX[:, None, :]
