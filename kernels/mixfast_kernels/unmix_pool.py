"""unmix-pool: from one shared feature map, a pooled description of each of the M inputs (MixShare).

    pooled[b, m, c] = mean over p of u_m(b, p) * relu(a_c * features[b, c, p] + b_c)

``u_m`` is input m's weight w_m on the feature grid, faded: ``u = w + fade * (1 - w)`` (thesis 3.4.2, Algorithm A.7).
With ``channels=n`` only the first n channels are unmixed; the others are plainly averaged (partial unmixing).
The BN-affine and ReLU in front are optional. The mix may live on another grid than the features: it is resampled by area.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mixfast_kernels._check import FLOATS, check_tensor
from mixfast_kernels._register import register_op
from mixfast_kernels.mixing import Mixing, check_mixing, zone_gradients


def _mix_on_features(
    features: Tensor, inside: Tensor, outside: Tensor, box: Tensor | None, bitmap: Tensor | None, grid: list[int]
) -> Mixing:
    mixing = Mixing(inside, outside, (int(grid[0]), int(grid[1])), box, bitmap)
    return mixing.resized((features.shape[2], features.shape[3]))


def _activated(features: Tensor, scale: Tensor | None, shift: Tensor | None) -> Tensor:
    """Features in the dtype sums are taken in (float32, or float64), after the optional affine and ReLU."""
    values = features.to(torch.promote_types(features.dtype, torch.float32))
    if scale is None or shift is None:
        return values
    return torch.relu(values * scale.to(values.dtype)[:, None, None] + shift.to(values.dtype)[:, None, None])


def unmix_pool_reference(
    features: Tensor,
    inside: Tensor,
    outside: Tensor,
    box: Tensor | None,
    bitmap: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    channels: int,
    grid: list[int],
) -> Tensor:
    """Plain PyTorch: ``[B, C, h, w]`` to ``[B, M, C]``, in the dtype of ``features``; box and bitmap are on ``grid``."""
    with torch.autocast(features.device.type, enabled=False):
        values = _activated(features, scale, shift).flatten(2)
        mixing = _mix_on_features(features, inside, outside, box, bitmap, grid)
        weights = mixing.weights().to(values.dtype).flatten(2)
        unmixed = weights @ values[:, :channels].transpose(1, 2) / values.shape[2]
        averaged = values[:, channels:].mean(2)[:, None].expand(-1, inside.shape[1], -1)
        return torch.cat((unmixed, averaged), 2).to(features.dtype)


def unmix_pool_backward_reference(
    grad: Tensor,
    features: Tensor,
    inside: Tensor,
    outside: Tensor,
    box: Tensor | None,
    bitmap: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    channels: int,
    grid: list[int],
    zones: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of features, inside, outside, scale and shift; empty for what is absent, or not wanted (``zones``).

    That of the features lies in memory as the features do (channels-last or contiguous).
    """
    with torch.autocast(features.device.type, enabled=False):
        values = _activated(features, scale, shift)
        positions = values.shape[2] * values.shape[3]
        mixing = _mix_on_features(features, inside, outside, box, bitmap, grid)
        weights = mixing.weights().to(values.dtype).flatten(2)
        grad = grad.to(values.dtype) / positions
        grad_unmixed = grad[:, :, :channels].transpose(1, 2) @ weights
        grad_averaged = grad[:, :, channels:].sum(1)[:, :, None].expand(-1, -1, positions)
        grad_values = torch.cat((grad_unmixed, grad_averaged), 1).view(values.shape)
        grad_inside, grad_outside = inside.new_empty(0), outside.new_empty(0)
        if zones:
            grad_weights = (grad[:, :, :channels] @ values[:, :channels].flatten(2)).unflatten(2, values.shape[2:])
            grad_inside, grad_outside = zone_gradients(mixing, grad_weights.to(inside.dtype))
        grad_scale, grad_shift = features.new_empty(0), features.new_empty(0)
        if scale is not None and shift is not None:
            grad_values = grad_values * (values > 0)
            grad_scale = (grad_values * features.to(values.dtype)).sum((0, 2, 3)).to(scale.dtype)
            grad_shift = grad_values.sum((0, 2, 3)).to(shift.dtype)
            grad_values = grad_values * scale.to(values.dtype)[:, None, None]
        grad_features = grad_values.to(features.dtype).contiguous(memory_format=_memory_format(features))
        return grad_features, grad_inside, grad_outside, grad_scale, grad_shift


def _memory_format(features: Tensor) -> torch.memory_format:
    """Channels-last where the features are that and nothing simpler."""
    if features.is_contiguous() or not features.is_contiguous(memory_format=torch.channels_last):
        return torch.contiguous_format
    return torch.channels_last


def _fake(features: Tensor, inside: Tensor, *_: Any) -> Tensor:
    return features.new_empty(features.shape[0], inside.shape[1], features.shape[1])


def _backward_fake(
    grad: Tensor,
    features: Tensor,
    inside: Tensor,
    outside: Tensor,
    box: Tensor | None,
    bitmap: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    channels: int,
    grid: list[int],
    zones: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    grad_features = torch.empty_like(features, memory_format=_memory_format(features))
    grad_zones = tuple(value.new_empty(value.shape if zones else 0) for value in (inside, outside))
    grad_affine = tuple(
        features.new_empty(0) if value is None else value.new_empty(value.shape) for value in (scale, shift)
    )
    return grad_features, *grad_zones, *grad_affine


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.channels, ctx.grid = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    # Training never asks for the gradients of the mix itself: without them the features need not be read again.
    zones = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
    saved = ctx.saved_tensors
    grads = _unmix_pool_backward(grad, *saved, ctx.channels, ctx.grid, zones)
    grad_zones = grads[1:3] if zones else (None, None)
    grad_affine = grads[3:] if saved[-1] is not None else (None, None)
    return grads[0], *grad_zones, None, None, *grad_affine, None, None


def _products(features: tuple[int, ...], inside: tuple[int, ...], channels: int) -> int:
    """Of weights with the channels that are unmixed; the others are only added up."""
    batch, _, height, width = features
    return 2 * batch * inside[1] * channels * height * width


def _flops(features: tuple[int, ...], inside: tuple[int, ...], *args: Any, **__: Any) -> int:
    return _products(features, inside, args[5])


def _backward_flops(
    grad: tuple[int, ...], features: tuple[int, ...], inside: tuple[int, ...], *args: Any, **__: Any
) -> int:
    channels, zones = args[5], args[7]
    return (1 + zones) * _products(features, inside, channels)


_unmix_pool_backward = register_op(
    "unmix_pool_backward(Tensor grad, Tensor features, Tensor inside, Tensor outside, Tensor? box, Tensor? bitmap,"
    " Tensor? scale, Tensor? shift, SymInt channels, SymInt[] grid, bool zones)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    unmix_pool_backward_reference,
    _backward_fake,
    differentiable_reference=True,
    flops=_backward_flops,
)
_unmix_pool = register_op(
    "unmix_pool(Tensor features, Tensor inside, Tensor outside, Tensor? box, Tensor? bitmap,"
    " Tensor? scale, Tensor? shift, SymInt channels, SymInt[] grid) -> Tensor",
    unmix_pool_reference,
    _fake,
    setup_context=_setup_context,
    backward=_backward,
    flops=_flops,
)


def unmix_pool(
    features: Tensor,
    mixing: Mixing,
    *,
    fade: float | Tensor = 0.0,
    channels: int | None = None,
    affine: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Pools the features once for each input, weighted by where that input was seen (thesis 3.4.2, A.7).

    Args:
        features: ``[B, C, h, w]``, any floating-point dtype; sums are taken in float32 (float64 for float64).
        mixing: the drawn mix, on any grid; it is resampled to ``(h, w)`` by area where the grids differ.
        fade: in 0..1, a number or a zero-dimensional tensor; 0 unmixes fully, 1 averages plainly.
        channels: only the first ``channels`` are unmixed; by default all.
        affine: ``(a, b)``, each ``[C]``: ``relu(a * features + b)`` is pooled instead.

    Returns:
        ``[B, M, C]`` in the dtype of ``features``. Gradients reach features, the mixing's weights and ``affine``.

    Raises:
        TypeError, ValueError: an argument has the wrong type, dtype, shape, device or range.
    """
    check_tensor(features, "features", ("B", "C", "h", "w"), FLOATS)
    if min(features.shape[2:]) < 1:
        raise ValueError(f"features must have at least one row and column, got shape {tuple(features.shape)}")
    check_mixing(mixing, "mixing", features.shape[0], None, features.device)
    count = features.shape[1]
    channels = count if channels is None else channels
    if not 0 <= channels <= count:
        raise ValueError(f"channels must be between 0 and the {count} channels of features, got {channels}")
    if not isinstance(fade, Tensor) and not 0.0 <= fade <= 1.0:
        raise ValueError(f"fade must be between 0 and 1, got {fade}")
    scale, shift = affine if affine is not None else (None, None)
    for name, value in (("affine[0]", scale), ("affine[1]", shift)):
        if affine is not None:
            check_tensor(value, name, (count,), FLOATS, features.device)
    if isinstance(fade, Tensor) or fade > 0:
        mixing = mixing.faded(fade)
    zone = (mixing.inside, mixing.outside, mixing.box, mixing.bitmap)
    return _unmix_pool(features, *zone, scale, shift, channels, list(mixing.grid))
