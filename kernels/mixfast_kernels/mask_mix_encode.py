"""mask-mix-encode: from M images a sample to one mixed encoding, the entrance of every method.

    out(b, p) = scale * sum_i w_i(b, p) * (weight_i * x_{index[b, i]} + bias_i)(p) + position(p)

(METHODS 1; thesis eq. 3.2, A.3 and A.4; ``scale`` is M for the convolutional methods, 1 for vision transformers.)
``index`` names the image that slot i of sample b takes, so shuffles and batch repetition are gathers, never copies.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mixfast_kernels._check import FLOATS, check_statistics, check_tensor
from mixfast_kernels._register import register_op
from mixfast_kernels.mixing import Mixing, check_mixing, zone_gradients


def normalised_images(images: Tensor, mean: list[float] | None, std: list[float] | None, dtype: torch.dtype) -> Tensor:
    """Images as the convolution reads them; uint8 is 0..255 and becomes 0..1 first."""
    full = torch.promote_types(dtype, torch.float32)
    values = images.to(full) / 255 if images.dtype == torch.uint8 else images.to(full)
    if mean is not None and std is not None:
        shape = (-1, 1, 1)
        values = (values - values.new_tensor(mean).view(shape)) / values.new_tensor(std).view(shape)
    return values.to(dtype)


def slots_of(normalised: Tensor, index: Tensor | None, num_inputs: int) -> list[Tensor]:
    """The images of each slot, channels-last ``[B, c, H, W]``: convolutions read that several times faster."""
    pixels = normalised.permute(0, 2, 3, 1).contiguous()
    if index is None:
        return [pixels.permute(0, 3, 1, 2)] * num_inputs
    return [pixels.index_select(0, slot).permute(0, 3, 1, 2) for slot in index.unbind(1)]


def _biases(bias: Tensor | None, weight: Tensor) -> Tensor | list[None]:
    """Each encoder's bias as its convolution takes it."""
    return [None] * weight.shape[0] if bias is None else bias.to(weight.dtype)


def mask_mix_encode_reference(
    images: Tensor,
    weight: Tensor,
    inside: Tensor,
    outside: Tensor,
    box: Tensor | None,
    bitmap: Tensor | None,
    index: Tensor | None,
    bias: Tensor | None,
    position: Tensor | None,
    grid: list[int],
    stride: int,
    padding: int,
    scale: float,
    mean: list[float] | None,
    std: list[float] | None,
) -> Tensor:
    """Plain PyTorch: ``[U, c, H, W]`` to ``[B, C, H', W']``, channels-last, in the dtype of ``weight``."""
    num_inputs = inside.shape[1]
    weights = Mixing(inside, outside, (grid[0], grid[1]), box, bitmap).weights().to(weight.dtype)
    slots = slots_of(normalised_images(images, mean, std, weight.dtype), index, num_inputs)
    biases = _biases(bias, weight)
    mixed = None
    for i, slot in enumerate(slots):
        encoder = min(i, weight.shape[0] - 1)
        encoded = F.conv2d(slot, weight[encoder], biases[encoder], stride, padding)
        share = (scale * weights[:, i])[:, None]
        mixed = encoded * share if mixed is None else torch.addcmul(mixed, encoded, share)
    if position is not None:
        mixed = mixed + position.to(mixed.dtype)
    return mixed.contiguous(memory_format=torch.channels_last)


def zone_weight_gradients(
    grad: Tensor,
    slots: list[Tensor],
    weight: Tensor,
    mixing: Mixing,
    bias: Tensor | None,
    stride: int,
    padding: int,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Gradients of inside and outside, ``[B, M]`` each: every input's encoding is needed where it is not seen, too."""
    biases = _biases(bias, weight)
    grads = []
    for i, slot in enumerate(slots):
        encoder = min(i, weight.shape[0] - 1)
        encoded = F.conv2d(slot, weight[encoder], biases[encoder], stride, padding)
        grads.append(scale * (grad * encoded).sum(1))
    return zone_gradients(mixing, torch.stack(grads, 1).to(mixing.inside.dtype))


def mask_mix_encode_backward_reference(
    grad: Tensor,
    images: Tensor,
    weight: Tensor,
    inside: Tensor,
    outside: Tensor,
    box: Tensor | None,
    bitmap: Tensor | None,
    index: Tensor | None,
    bias: Tensor | None,
    position: Tensor | None,
    grid: list[int],
    stride: int,
    padding: int,
    scale: float,
    mean: list[float] | None,
    std: list[float] | None,
    wanted: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of images, weight, inside, outside, bias and position; empty where ``wanted`` says no.

    ``wanted``: images, zone weights (inside and outside); the parameters' gradients are always computed.
    """
    wants_images, wants_zones = wanted
    mixing = Mixing(inside, outside, (grid[0], grid[1]), box, bitmap)
    weights = mixing.weights().to(weight.dtype)
    normalised = normalised_images(images, mean, std, weight.dtype)
    slots = slots_of(normalised, index, inside.shape[1])
    grad = grad.to(weight.dtype).contiguous(memory_format=torch.channels_last)
    grad_weight: list[Tensor | None] = [None] * weight.shape[0]
    grad_bias: list[Tensor | None] = [None] * weight.shape[0]
    grad_images = torch.zeros_like(normalised) if wants_images else images.new_empty(0)
    for i, slot in enumerate(slots):
        encoder = min(i, weight.shape[0] - 1)
        grad_encoded = grad * (scale * weights[:, i])[:, None]
        mask = [wants_images, True, bias is not None]
        grad_slot, part, bias_part = torch.ops.aten.convolution_backward(
            grad_encoded,
            slot,
            # Torch's own half-precision convolution refuses to take the gradient of a weight with gaps.
            weight[encoder].contiguous(),
            [weight.shape[1]],
            [stride] * 2,
            [padding] * 2,
            [1, 1],
            False,
            [0, 0],
            1,
            mask,
        )
        grad_weight[encoder] = part if grad_weight[encoder] is None else grad_weight[encoder] + part
        if bias is not None:
            grad_bias[encoder] = bias_part if grad_bias[encoder] is None else grad_bias[encoder] + bias_part
        if wants_images:
            grad_images = grad_images + grad_slot if index is None else grad_images.index_add(0, index[:, i], grad_slot)
    grad_inside, grad_outside = inside.new_empty(0), outside.new_empty(0)
    if wants_zones:
        grad_inside, grad_outside = zone_weight_gradients(grad, slots, weight, mixing, bias, stride, padding, scale)
    if wants_images and std is not None:
        grad_images = grad_images / grad_images.new_tensor(std).view(-1, 1, 1)
    return (
        grad_images.to(images.dtype),
        torch.stack(grad_weight).contiguous(),
        grad_inside,
        grad_outside,
        grad.new_empty(0) if bias is None else torch.stack(grad_bias).to(bias.dtype),
        grad.new_empty(0) if position is None else grad.sum(0).to(position.dtype).contiguous(),
    )


def _fake(
    images: Tensor,
    weight: Tensor,
    inside: Tensor,
    outside: Tensor,
    box: Tensor | None,
    bitmap: Tensor | None,
    index: Tensor | None,
    bias: Tensor | None,
    position: Tensor | None,
    grid: list[int],
    *_: Any,
) -> Tensor:
    size = (inside.shape[0], weight.shape[1], grid[0], grid[1])
    return weight.new_empty(size).contiguous(memory_format=torch.channels_last)


def _backward_fake(
    grad: Tensor,
    images: Tensor,
    weight: Tensor,
    inside: Tensor,
    outside: Tensor,
    box: Tensor | None,
    bitmap: Tensor | None,
    index: Tensor | None,
    bias: Tensor | None,
    position: Tensor | None,
    grid: list[int],
    stride: int,
    padding: int,
    scale: float,
    mean: list[float] | None,
    std: list[float] | None,
    wanted: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    return (
        torch.empty_like(images) if wanted[0] else images.new_empty(0),
        weight.new_empty(weight.shape),
        inside.new_empty(inside.shape if wanted[1] else 0),
        outside.new_empty(outside.shape if wanted[1] else 0),
        weight.new_empty(0) if bias is None else bias.new_empty(bias.shape),
        weight.new_empty(0) if position is None else position.new_empty(position.shape),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:9])
    ctx.settings = inputs[9:]


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    wants_images, wants_zones = ctx.needs_input_grad[0], ctx.needs_input_grad[2] or ctx.needs_input_grad[3]
    grads = _mask_mix_encode_backward(grad, *ctx.saved_tensors, *ctx.settings, [wants_images, wants_zones])
    grad_images, grad_weight, grad_inside, grad_outside, grad_bias, grad_position = grads
    has_bias, has_position = ctx.saved_tensors[7] is not None, ctx.saved_tensors[8] is not None
    return (
        grad_images if wants_images else None,
        grad_weight,
        grad_inside if wants_zones else None,
        grad_outside if wants_zones else None,
        None,
        None,
        None,
        grad_bias if has_bias else None,
        grad_position if has_position else None,
        *(None,) * len(ctx.settings),
    )


def _flops(images: Any, weight: tuple[int, ...], inside: tuple[int, ...], *args: Any, **__: Any) -> int:
    """M convolutions: what a mix of real-valued weights costs. (A binary zone needs one; shapes alone do not tell.)"""
    _, channels, image_channels, height, width = weight
    grid = args[6]
    return 2 * inside[0] * inside[1] * channels * image_channels * height * width * grid[0] * grid[1]


def _backward_flops(grad: Any, *args: Any, **kwargs: Any) -> int:
    wants_images, wants_zones = args[-1]
    return (1 + wants_images + wants_zones) * _flops(*args)


ARGUMENTS = (
    "Tensor images, Tensor weight, Tensor inside, Tensor outside, Tensor? box, Tensor? bitmap, Tensor? index,"
    " Tensor? bias, Tensor? position, SymInt[] grid, SymInt stride, SymInt padding, float scale, float[]? mean, float[]? std"
)
_mask_mix_encode_backward = register_op(
    f"mask_mix_encode_backward(Tensor grad, {ARGUMENTS}, bool[] wanted)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    mask_mix_encode_backward_reference,
    _backward_fake,
    differentiable_reference=True,
    flops=_backward_flops,
)
_mask_mix_encode = register_op(
    f"mask_mix_encode({ARGUMENTS}) -> Tensor",
    mask_mix_encode_reference,
    _fake,
    setup_context=_setup_context,
    backward=_backward,
    autocast_inputs=(0, 1, 7, 8),
    flops=_flops,
)


def mask_mix_encode(
    images: Tensor,
    weight: Tensor,
    mixing: Mixing,
    *,
    index: Tensor | None = None,
    bias: Tensor | None = None,
    position: Tensor | None = None,
    stride: int = 1,
    padding: int = 1,
    scale: float = 1.0,
    mean: Sequence[float] | Tensor | None = None,
    std: Sequence[float] | Tensor | None = None,
) -> Tensor:
    """Encodes M images a sample and mixes the encodings position by position (METHODS 1; thesis eq. 3.2).

    Args:
        images: ``[U, c, H, W]``, uint8 (0..255, read as 0..1) or floating point.
        weight: ``[M, C, c, k, k]``, one encoder an input, or ``[1, C, c, k, k]``, one for all.
        mixing: the drawn mix on the output grid, ``(H + 2 * padding - k) // stride + 1`` a side.
        index: int64 ``[B, M]`` into the U images (values not checked on the device); by default slot i of sample b
            takes image b, and U must equal B.
        bias: ``[M, C]`` or ``[1, C]``, added inside the mix; as many as ``weight`` has encoders.
        position: ``[C, H', W']``, a position embedding added after the mix.
        stride, padding: of the convolution, in pixels.
        scale: factor on the mix.
        mean, std: c numbers each, in units of 0..1; images are normalised with them first.

    Returns:
        ``[B, C, H', W']`` in channels-last memory, in the dtype of ``weight`` (under autocast, autocast's). Gradients
        reach ``weight``, ``bias``, ``position``, the mixing's zone weights and floating-point ``images``.

    Raises:
        TypeError, ValueError: an argument has the wrong type, dtype, shape, device or range.
    """
    check_tensor(images, "images", ("U", "c", "H", "W"), (torch.uint8, *FLOATS))
    check_tensor(weight, "weight", ("M", "C", "c", "k", "k"), FLOATS, images.device)
    unique, channels, height, width = images.shape
    encoders, out_channels, _, kernel, kernel_width = weight.shape
    if weight.shape[2] != channels or kernel != kernel_width:
        raise ValueError(f"weight must be [M, C, {channels}, k, k] for these images, got {tuple(weight.shape)}")
    if stride < 1 or padding < 0:
        raise ValueError(f"stride must be at least 1 and padding at least 0, got {stride} and {padding}")
    if min(height, width) + 2 * padding < kernel:
        raise ValueError(f"images of {height} x {width} with padding {padding} are smaller than the kernel, {kernel}")
    grid = ((height + 2 * padding - kernel) // stride + 1, (width + 2 * padding - kernel) // stride + 1)
    if not isinstance(mixing, Mixing):
        raise TypeError(f"mixing must be a Mixing, got {type(mixing).__name__}")
    batch, num_inputs = mixing.inside.shape
    check_mixing(mixing, "mixing", batch, grid, images.device)
    if encoders not in (1, num_inputs):
        raise ValueError(f"weight must hold 1 or {num_inputs} encoders, as mixing has inputs; got {encoders}")
    if index is not None:
        check_tensor(index, "index", (batch, num_inputs), (torch.int64,), images.device)
    elif unique != batch:
        raise ValueError(f"without index there must be one image a sample: {batch} samples, {unique} images")
    if bias is not None:
        check_tensor(bias, "bias", (encoders, out_channels), FLOATS, images.device)
    if position is not None:
        check_tensor(position, "position", (out_channels, *grid), FLOATS, images.device)
    mean, std = check_statistics(mean, std, channels)
    zone = (mixing.inside, mixing.outside, mixing.box, mixing.bitmap)
    return _mask_mix_encode(
        images, weight, *zone, index, bias, position, list(grid), stride, padding, float(scale), mean, std
    )
