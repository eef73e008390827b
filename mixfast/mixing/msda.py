"""Pixel-level CutMix and MixUp of each image with a partner, and the labels of images that are mixed twice.

An image that goes into a slot of a MixMo network is itself a mix of two sources: source 0 is the main image, source 1
its partner. Shape legend: N images (B samples, or B * M slots in one call), S = 2 sources.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from mixfast_kernels import Mixing
from torch import Tensor

from mixfast.mixing._arguments import check_concentration, check_name, check_probability, checked_grid
from mixfast.mixing.draw import linear_mixing
from mixfast.mixing.ratios import draw_ratios
from mixfast.mixing.rectangle import draw_box

PIXEL_MIXINGS = ("cutmix", "mixup", "cutmix-mixup")
"""Kinds of mixing that happen in pixels."""


def draw_pixel_mixing(
    kind: str,
    batch: int,
    grid: tuple[int, int],
    alpha: float,
    probability: float,
    *,
    mixup_alpha: float = 0.8,
    generator: torch.Generator | None,
    device: torch.device | str,
) -> Mixing:
    """A mix of each of N images with its partner.

    CutMix shows the main image inside a box of area ``lambda ~ Beta(alpha, alpha)`` and the partner outside it
    (METHODS 7); MixUp weighs them by ``lambda`` and ``1 - lambda``; both at once weigh them by ``l'`` and ``1 - l'`` in
    CutMix's box and the other way round outside it, ``l' ~ Beta(mixup_alpha, mixup_alpha)`` (thesis A.1.5, METHODS 1).
    Images are mixed with ``probability`` each; the others get weight 1 for the main image everywhere, in the same
    tensors. A plain network's label share is ``ratios()[:, 0]`` of the result. Draws lambda, then who is mixed, then the
    boxes, then l'.

    Args:
        kind: one of ``PIXEL_MIXINGS``.
        batch: N, may be 0.
        grid: ``(H, W)`` in pixels.
        alpha: concentration of the Beta distribution, positive and finite.
        probability: that an image is mixed, in 0..1.
        mixup_alpha: as alpha, for l'; of ``cutmix-mixup`` only.
        generator: source of all randomness, on ``device``; None is torch's global one.
        device: where to draw.

    Returns:
        A ``Mixing`` of two inputs on the pixel grid; for MixUp without a zone, else with a box.

    Raises:
        ValueError: an argument is not as above.
    """
    check_name("pixel mixing", kind, PIXEL_MIXINGS)
    check_probability("probability", probability)
    check_concentration("mixup_alpha", mixup_alpha)
    grid = checked_grid(grid)
    ratios_NS = draw_ratios(batch, 2, alpha, generator=generator, device=device)
    is_mixed_N1 = torch.rand((batch, 1), generator=generator, device=device) < probability
    main_NS = torch.zeros_like(ratios_NS)
    main_NS[:, 0] = 1
    if kind == "mixup":
        return linear_mixing(torch.where(is_mixed_N1, ratios_NS, main_NS), grid)
    box = draw_box(ratios_NS[:, 0], grid, generator=generator)
    inside_NS = main_NS
    if kind == "cutmix-mixup":
        inside_NS = draw_ratios(batch, 2, mixup_alpha, generator=generator, device=device)
    return Mixing(
        torch.where(is_mixed_N1, inside_NS, main_NS), torch.where(is_mixed_N1, 1 - inside_NS, main_NS), grid, box=box
    )


def visible_share(pixel_mixing: Mixing, slot_weights: Tensor) -> Tensor:
    """The main image's share of what a slot shows: ``sum(m * M) / sum(M)`` (thesis A.1.3.1, METHODS 7).

    m is the main image's weight, averaged over the pixels of each position of the slot's grid, and M the weight of the
    slot there. With M constant (linear mixing) this is lambda. A slot that shows nothing has share 1: its loss has
    weight 0, and the share must only not be NaN.

    Args:
        pixel_mixing: mix of two sources for N images, on the pixel grid.
        slot_weights: floating point ``[N, H', W']``, each slot's weights in the network's own mix, which is
            ``mixing.weights().flatten(0, 1)`` for all slots of a batch at once.

    Returns:
        float32 ``[N]`` in 0..1.

    Raises:
        ValueError: not two sources, or shapes that disagree.
    """
    if pixel_mixing.num_inputs != 2:
        raise ValueError(f"pixel_mixing must mix 2 sources, got {pixel_mixing.num_inputs}")
    if slot_weights.ndim != 3 or len(slot_weights) != pixel_mixing.batch_size:
        raise ValueError(
            f"slot_weights must have the shape [{pixel_mixing.batch_size}, H', W'] to fit pixel_mixing; "
            f"got {tuple(slot_weights.shape)}"
        )
    height, width = slot_weights.shape[1:]
    main_NHW = pixel_mixing.resized((height, width), mode="area").weights()[:, 0]
    slot_NHW = slot_weights.float()
    shown_N = slot_NHW.sum((1, 2))
    share_N = ((main_NHW * slot_NHW).sum((1, 2)) / shown_N).clamp(0, 1)
    return torch.where(shown_N > 0, share_N, 1)


def keep_main_predominant(pixel_mixing: Mixing, slot_weights: Tensor) -> tuple[Mixing, Tensor]:
    """Swaps the two images of every slot whose visible share of the main image is below one half (thesis A.1.3.1).

    The images change zones, so that the partner stays a perturbation of the main image as the slot shows it.

    Args:
        pixel_mixing: as for ``visible_share``.
        slot_weights: as for ``visible_share``.

    Returns:
        The mix to apply to the pixels, and the main image's label share under it, float32 ``[N]`` in 0.5..1.

    Raises:
        ValueError: as for ``visible_share``.
    """
    share_N = visible_share(pixel_mixing, slot_weights)
    is_swapped_N1 = (share_N < 0.5)[:, None]
    swapped = replace(
        pixel_mixing,
        inside=torch.where(is_swapped_N1, pixel_mixing.inside.flip(1), pixel_mixing.inside),
        outside=torch.where(is_swapped_N1, pixel_mixing.outside.flip(1), pixel_mixing.outside),
    )
    return swapped, torch.maximum(share_N, 1 - share_N)
