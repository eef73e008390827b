"""Drawing a whole ``Mixing``: the rows of the table in METHODS 1.

Shape legend: B samples, M inputs each.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from mixfast_kernels import Mixing
from torch import Tensor

from mixfast.mixing._arguments import (
    check_count,
    check_generator,
    check_kappa,
    check_probability,
    checked_grid,
)
from mixfast.mixing.zones import draw_zone


def sum_mixing(batch: int, num_inputs: int, grid: tuple[int, int], device: torch.device | str) -> Mixing:
    """Every input with weight 1/M everywhere: MIMO, and the inference of all CNN methods.

    Raises:
        ValueError: a number out of range.
    """
    check_count("batch", batch, 0)
    check_count("num_inputs", num_inputs, 1)
    equal = torch.full((batch, num_inputs), 1 / num_inputs, dtype=torch.float32, device=device)
    return _whole_grid(equal, grid)


def all_from(index: int, batch: int, num_inputs: int, grid: tuple[int, int], device: torch.device | str) -> Mixing:
    """Everything from input ``index``, nothing from the others.

    Raises:
        ValueError: a number out of range.
    """
    check_count("batch", batch, 0)
    check_count("num_inputs", num_inputs, 1)
    if not 0 <= index < num_inputs:
        raise ValueError(f"index must name one of {num_inputs} inputs, 0..{num_inputs - 1}; got {index!r}")
    only = torch.zeros((batch, num_inputs), dtype=torch.float32, device=device)
    only[:, index] = 1
    return _whole_grid(only, grid)


def single_mixing(batch: int, grid: tuple[int, int], device: torch.device | str) -> Mixing:
    """One network with one input: no mixing at all, in the form that the mixing operators take."""
    return all_from(0, batch, 1, grid, device)


def linear_mixing(kappa: Tensor, grid: tuple[int, int]) -> Mixing:
    """Input i with weight ``kappa_i`` everywhere (Linear-MixMo, MixUp; thesis eq. A.3).

    Args:
        kappa: float32 ``[B, M]``, rows sum to 1, as from ``draw_ratios``.
        grid: ``(H, W)``.

    Raises:
        TypeError, ValueError: an argument is not as above.
    """
    check_kappa(kappa, "BM")
    return _whole_grid(kappa, grid)


def cut_mixing(
    kappa: Tensor, grid: tuple[int, int], *, mask: str = "rectangle", generator: torch.Generator | None
) -> Mixing:
    """One input k alone inside a mask of area ``kappa_k``; outside, the others in proportion (thesis eq. A.4).

    k is uniform and drawn once for the batch. For two inputs this is the outside flip of algorithm A.6: with
    probability one half the two inputs change roles (METHODS 7). Masks do not hit ``kappa`` exactly:
    ``Mixing.ratios()`` gives what was realised. Draws k, then the mask.

    Args:
        kappa: float32 ``[B, M]`` with M at least 2, rows sum to 1, as from ``draw_ratios``.
        grid: ``(H, W)``.
        mask: one of ``zones.MASKS``.
        generator: source of all randomness, on kappa's device; None is torch's global one.

    Raises:
        TypeError, ValueError: an argument is not as above.
    """
    check_kappa(kappa, "BM")
    num_inputs = kappa.shape[1]
    check_count("number of inputs in kappa [B, M]", num_inputs, 2)
    grid = checked_grid(grid)
    check_generator(generator, kappa.device)
    chosen = torch.randint(num_inputs, (), generator=generator, device=kappa.device)
    is_chosen_M = torch.arange(num_inputs, device=kappa.device) == chosen
    area_B = (kappa * is_chosen_M).sum(1)
    zone = draw_zone(mask, area_B, grid, generator=generator)
    inside_BM = is_chosen_M.to(kappa.dtype).expand_as(kappa).contiguous()
    return Mixing(inside_BM, _shares_of_others(kappa, is_chosen_M), grid, **zone)


def patch_or_linear(
    kappa: Tensor,
    grid: tuple[int, int],
    *,
    probability: float,
    mask: str = "rectangle",
    generator: torch.Generator | None,
) -> Mixing:
    """The draw of Cut-MixMo: for the whole batch, ``cut_mixing`` with ``probability``, else ``linear_mixing`` (A.6).

    Both outcomes have the same tensors, and the coin stays on the device: a linear mix has an empty zone of the mask's
    form (a box of zeros, a bitmap of False) and ``kappa`` outside it. So nothing downstream branches on the outcome, a
    compiled step has one graph, and the host never waits. The price is that a mask is drawn for linear batches too.
    Draws the coin, then what ``cut_mixing`` draws; the numbers consumed do not depend on the outcome.

    Args:
        kappa: float32 ``[B, M]`` with M at least 2, rows sum to 1, as from ``draw_ratios``.
        grid: ``(H, W)``.
        probability: of patch mixing, as from ``schedule.patch_probability``.
        mask: one of ``zones.MASKS``.
        generator: source of all randomness, on kappa's device; None is torch's global one.

    Raises:
        TypeError, ValueError: an argument is not as above.
    """
    check_kappa(kappa, "BM")
    check_probability("probability", probability)
    check_generator(generator, kappa.device)
    is_patch = torch.rand((), generator=generator, device=kappa.device) < probability
    cut = cut_mixing(kappa, grid, mask=mask, generator=generator)
    return replace(
        cut,
        outside=torch.where(is_patch, cut.outside, kappa),
        box=None if cut.box is None else cut.box * is_patch,
        bitmap=None if cut.bitmap is None else cut.bitmap & is_patch,
    )


def _whole_grid(weights_BM: Tensor, grid: tuple[int, int]) -> Mixing:
    """The same weights at every position: an empty inside zone, and weights for it that are never seen."""
    return Mixing(weights_BM, weights_BM, checked_grid(grid))


def _shares_of_others(kappa_BM: Tensor, is_chosen_M: Tensor) -> Tensor:
    """``kappa_i / (1 - kappa_k)`` for the inputs other than the chosen k, 0 for k: ``[B, M]``, rows sum to 1.

    Where the others have no mass left to share out, they share alike: the mask may still leave a part of the grid free.
    """
    others_BM = kappa_BM.masked_fill(is_chosen_M, 0)
    total_B1 = others_BM.sum(1, keepdim=True)
    has_mass = total_B1 > torch.finfo(kappa_BM.dtype).tiny
    alike_M = (~is_chosen_M).to(kappa_BM.dtype) / (len(is_chosen_M) - 1)
    return torch.where(has_mass, others_BM / total_B1, alike_M)
