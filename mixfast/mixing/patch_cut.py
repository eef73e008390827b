"""The "corrected CutMix" of MixViT: a mask drawn in pixels, decided patch by patch (thesis A.1.5).

A transformer has difficulty with tokens that show two inputs (4.3.1.2), so each patch goes to the input that most of its
pixels show. Legend: B samples, M inputs, H' x W' patches.
"""

from __future__ import annotations

import torch
from mixfast_kernels import Mixing
from torch import Tensor

from mixfast.mixing._arguments import check_count, check_generator, check_positive, check_probability, checked_grid
from mixfast.mixing.ratios import draw_ratios
from mixfast.mixing.zones import draw_zone


def majority(mixing: Mixing, grid: tuple[int, int], *, ties_inside: Tensor) -> Mixing:
    """The same mix on a coarser grid, each cell wholly in the zone that most of its pixels lie in.

    Args:
        mixing: on the pixel grid, a whole number of times as large as ``grid``, with a binary zone (a box or a bitmap).
        grid: ``(H', W')``, patches.
        ties_inside: bool, zero-dimensional: whether patches with as many pixels in either zone lie inside.

    Returns:
        A ``Mixing`` with a bool ``bitmap`` on ``grid``.

    Raises:
        ValueError: ``grid`` does not divide the mix's grid.
    """
    grid = checked_grid(grid)
    (height, remainder_h), (width, remainder_w) = (
        divmod(fine, coarse) for fine, coarse in zip(mixing.grid, grid, strict=True)
    )
    if remainder_h or remainder_w:
        raise ValueError(f"grid must divide the mix's grid {mixing.grid}, got {grid}")
    pixels = height * width
    coverage = mixing.resized(grid, mode="area").coverage()
    if coverage is None:
        coverage = mixing.inside.new_zeros(1, *grid)
    # Whole numbers of pixels again, so that a tie is a tie whatever the patch size.
    twice_inside = 2 * (coverage.expand(mixing.batch_size, *grid) * pixels).round()
    bitmap = (twice_inside > pixels) | ((twice_inside == pixels) & ties_inside)
    return Mixing(mixing.inside, mixing.outside, grid, bitmap=bitmap)


def patch_cut_mixing(
    batch: int,
    num_inputs: int,
    grid: tuple[int, int],
    *,
    patch_size: int,
    alpha: float,
    probability: float,
    mask: str = "rectangle",
    generator: torch.Generator | None,
    device: torch.device | str,
) -> Mixing:
    """The draw of MixViT: for the whole batch, with ``probability`` two inputs a sample share the patches (a mask of area
    ``lambda ~ Beta(alpha, alpha)``, drawn in pixels, decided by majority, ties to one input a batch at random), else all
    patches come from one input (thesis A.1.5; METHODS 1).

    Which two of the M inputs a sample shows, and which of them lies inside, is uniform for each sample; so is the one that
    all patches come from. With more than two inputs the others are not seen there: a patch shows one input only, and a
    mix has two zones. Both outcomes have the same tensors, and nothing waits for the device. Draws the pairs, lambda,
    the mask, the ties, then the coin.

    Args:
        batch: B, may be 0.
        num_inputs: M, at least 2.
        grid: ``(H', W')``, patches.
        patch_size: pixels a side of a patch.
        alpha: concentration of lambda (0.5 in the thesis).
        probability: of a mask, as from ``schedule.patch_probability``.
        mask: one of ``zones.MASKS``.
        generator: source of all randomness, on ``device``; None is torch's global one.
        device: where to draw.

    Returns:
        A ``Mixing`` with a bool ``bitmap``; its weights are 0 and 1.

    Raises:
        ValueError: an argument is not as above.
    """
    check_count("batch", batch, 0)
    check_count("num_inputs", num_inputs, 2)
    check_count("patch_size", patch_size, 1)
    check_positive("alpha", alpha)
    check_probability("probability", probability)
    check_generator(generator, torch.device(device))
    height, width = checked_grid(grid)
    order_BM = torch.rand((batch, num_inputs), generator=generator, device=device).argsort(1)
    inside_BM, outside_BM = (_one_hot(order_BM[:, place], num_inputs) for place in (0, 1))
    area_B = draw_ratios(batch, 2, alpha, generator=generator, device=device)[:, 0]
    pixels = (height * patch_size, width * patch_size)
    fine = Mixing(inside_BM, outside_BM, pixels, **draw_zone(mask, area_B, pixels, generator=generator))
    ties, coin = torch.rand(2, generator=generator, device=device)
    cut = majority(fine, (height, width), ties_inside=ties < 0.5)
    is_cut = coin < probability
    outside_BM = torch.where(is_cut, cut.outside, cut.inside)
    return Mixing(cut.inside, outside_BM, cut.grid, bitmap=cut.bitmap & is_cut)


def _one_hot(index_B: Tensor, count: int) -> Tensor:
    """float32 ``[B, count]``."""
    return (index_B[:, None] == torch.arange(count, device=index_B.device)).to(torch.float32)
