"""The mask families by name, behind one function."""

from __future__ import annotations

import torch
from torch import Tensor

from mixfast.mixing._arguments import check_name
from mixfast.mixing.concat import draw_horizontal_box, draw_vertical_box
from mixfast.mixing.cowmask import draw_cowmask_bitmap
from mixfast.mixing.fmix import draw_fmix_bitmap
from mixfast.mixing.patchup import draw_patchup_bitmap
from mixfast.mixing.rectangle import draw_box

_FAMILIES = {
    "rectangle": ("box", draw_box),
    "horizontal": ("box", draw_horizontal_box),
    "vertical": ("box", draw_vertical_box),
    "patchup": ("bitmap", draw_patchup_bitmap),
    "fmix": ("bitmap", draw_fmix_bitmap),
    "cowmask": ("bitmap", draw_cowmask_bitmap),
}

MASKS = tuple(_FAMILIES)
"""Names of the mask families (thesis A.5.1 and table 3.3)."""


def draw_zone(
    mask: str, kappa: Tensor, grid: tuple[int, int], *, generator: torch.Generator | None
) -> dict[str, Tensor]:
    """The inside zone of a ``Mixing`` for one family, as the keyword argument that ``Mixing`` takes it in.

    Args:
        mask: one of ``MASKS``.
        kappa: wanted areas in 0..1, floating point ``[B]``.
        grid: ``(H, W)``.
        generator: source of all randomness, on kappa's device; None is torch's global one.

    Returns:
        ``{"box": int32 [B, 4]}`` or ``{"bitmap": bool [B, H, W]}``, always the same one for one family.

    Raises:
        TypeError, ValueError: an argument is not as above.
    """
    check_name("mask", mask, MASKS)
    form, draw = _FAMILIES[mask]
    return {form: draw(kappa, grid, generator=generator)}
