"""Mixing ratios kappa, and the loss weights that follow from them."""

from __future__ import annotations

import torch
from torch import Tensor

from mixfast.mixing._arguments import check_concentration, check_count, check_generator, check_positive


def draw_ratios(
    batch: int, num_inputs: int, alpha: float, *, generator: torch.Generator | None, device: torch.device | str
) -> Tensor:
    """One symmetric Dirichlet(alpha) draw a sample; for two inputs this is (k, 1 - k), k ~ Beta(alpha, alpha).

    A Dirichlet draw is a set of Gamma(alpha) draws divided by their sum. For small alpha all of them underflow to zero
    in float32, so the logarithms are drawn instead, with Gamma(alpha) = Gamma(alpha + 1) * U^(1 / alpha), and the
    division becomes a softmax.

    Args:
        batch: B, may be 0.
        num_inputs: M, at least 1.
        alpha: concentration, positive and finite (2 for MixMo, thesis 3.3.4.1).
        generator: source of all randomness, on ``device``; None is torch's global one.
        device: where to draw.

    Returns:
        float32 ``[B, M]``; rows sum to 1 (thesis A.5.2).

    Raises:
        ValueError: a number out of range, or a generator on another device.
    """
    check_count("batch", batch, 0)
    check_count("num_inputs", num_inputs, 1)
    check_concentration("alpha", alpha)
    check_generator(generator, torch.device(device))
    concentration = torch.full((batch, num_inputs), alpha + 1, dtype=torch.float32, device=device)
    gamma = torch._standard_gamma(concentration, generator=generator)
    # An exponential draw is -log(U), and never infinite.
    minus_log_uniform = torch.empty_like(concentration).exponential_(generator=generator)
    return torch.softmax(gamma.log() - minus_log_uniform / alpha, dim=1)


def loss_weights(ratios: Tensor, root: float) -> Tensor:
    """Weight of each subnetwork's loss: ``M * kappa_i^(1/r) / sum_j kappa_j^(1/r)`` (thesis eq. A.2; 3.3 for M = 2).

    An input that is not visible at all (kappa 0) gets weight 0 for every root (METHODS 7).

    Args:
        ratios: realised ratios kappa, floating point ``[B, M]``, each row with a positive entry.
        root: r, positive; 1 keeps the weights proportional to the ratios, infinity weighs all visible inputs alike.

    Returns:
        ``[B, M]`` in the dtype of ``ratios``; rows sum to M.

    Raises:
        ValueError: ``ratios`` is not two-dimensional, or ``root`` is not positive.
    """
    if ratios.ndim != 2:
        raise ValueError(f"ratios must have the shape [B, M], got {tuple(ratios.shape)}")
    check_positive("root", root)
    flattened = torch.where(ratios > 0, ratios.pow(1 / root), torch.zeros_like(ratios))
    return ratios.shape[1] * flattened / flattened.sum(1, keepdim=True)
