"""mask-mix-encode by the CUDA library: which geometry takes which kernel, and what a library product does.

- A 3 x 3 kernel of stride 1 or 2 (a convolutional stem): one kernel forward, one for the gradients of weight and bias.
- Windows that do not overlap (a patch projection, stride >= k): a kernel gathers, selects, weighs and normalises the
  pixels into a matrix with a row for each position, and one matrix product encodes them all. With one encoder for all
  inputs a row holds their mix. With an encoder for each, a row holds the taps of all encoders side by side, zeros where
  one sees nothing: its product costs M encoders, for which rows only the device knows cannot be sorted out without waiting.
- Anything else goes to the reference: other geometries, more than 8 image channels or inputs, and the gradients of images
  and of zone weights.

Values of ``index`` are not checked on the device: one out of range takes the nearest image in range.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mixfast_kernels.mask_mix_encode import ARGUMENTS, mask_mix_encode_backward_reference, mask_mix_encode_reference

SCHEMAS = (
    f"encode_stem({ARGUMENTS}) -> Tensor",
    f"encode_stem_backward(Tensor grad, {ARGUMENTS}) -> Tensor",
    f"encode_patches({ARGUMENTS}) -> Tensor",
)

# What the kernels have room for: per-channel statistics travel with a launch, weights of inputs lie in shared memory.
MAX_IMAGE_CHANNELS, MAX_INPUTS = 8, 8


def _way(images: Tensor, weight: Tensor, inside: Tensor, stride: int) -> str:
    """``"stem"``, ``"patches"`` or ``"reference"``."""
    if images.shape[1] > MAX_IMAGE_CHANNELS or inside.shape[1] > MAX_INPUTS:
        return "reference"
    kernel = weight.shape[3]
    if stride >= kernel:
        return "patches"
    return "stem" if kernel == 3 else "reference"


def mask_mix_encode(images: Tensor, weight: Tensor, inside: Tensor, *rest: Any) -> Tensor:
    """The operator, arguments as in its schema: ``[U, c, H, W]`` to ``[B, C, H', W']``, channels-last."""
    arguments = (images, weight, inside, *rest)
    _, _, _, index, bias, position, grid, stride, *_ = rest
    way = _way(images, weight, inside, stride)
    if way == "reference":
        return mask_mix_encode_reference(*arguments)
    if way == "stem":
        return torch.ops.mixfast_cuda.encode_stem(*arguments)
    rows = torch.ops.mixfast_cuda.encode_patches(*arguments)
    encoded = (rows @ _columns(weight, bias, rows.shape[1]).T).view(inside.shape[0], *grid, weight.shape[1])
    if position is not None:
        encoded += position.permute(1, 2, 0).to(encoded.dtype)
    return encoded.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


def _columns(weight: Tensor, bias: Tensor | None, count: int) -> Tensor:
    """All encoders as one matrix ``[C, count]``, in the order of the patch matrix: taps, then biases, then zeros."""
    encoders, channels = weight.shape[:2]
    taps = weight.flatten(2).transpose(0, 1).flatten(1)
    biases = weight.new_zeros(channels, encoders) if bias is None else bias.T.to(weight.dtype)
    return torch.cat((taps, biases, weight.new_zeros(channels, count - taps.shape[1] - encoders)), 1)


def mask_mix_encode_backward(
    grad: Tensor, images: Tensor, weight: Tensor, inside: Tensor, *rest: Any
) -> tuple[Tensor, ...]:
    """The operator, arguments and results as in its schema."""
    *settings, wanted = rest
    _, _, _, _, bias, position, _, stride, *_ = settings
    way = _way(images, weight, inside, stride)
    if way == "reference" or any(wanted):
        return mask_mix_encode_backward_reference(grad, images, weight, inside, *rest)
    grad = grad.to(weight.dtype).contiguous(memory_format=torch.channels_last)
    arguments = (images, weight, inside, *settings)
    with torch.autocast(images.device.type, enabled=False):
        grads = (_stem_gradients if way == "stem" else _patch_gradients)(grad, *arguments)
    grad_weight, grad_bias = grads
    nothing = weight.new_empty(0)
    return (
        images.new_empty(0),
        grad_weight.to(weight.dtype).contiguous(),
        inside.new_empty(0),
        inside.new_empty(0),
        nothing if bias is None else grad_bias.to(bias.dtype).contiguous(),
        weight.new_empty(0) if position is None else grad.sum(0).to(position.dtype).contiguous(),
    )


def _stem_gradients(grad: Tensor, images: Tensor, weight: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    """``[encoders, C, c, 3, 3]`` and ``[encoders, C]``."""
    sums = torch.ops.mixfast_cuda.encode_stem_backward(grad, images, weight, *rest)
    taps = weight[0, 0].numel()
    return sums[:, :, :taps].reshape(weight.shape), sums[:, :, taps]


def _patch_gradients(grad: Tensor, images: Tensor, weight: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    """``[encoders, C, c, k, k]`` and ``[encoders, C]``."""
    rows = torch.ops.mixfast_cuda.encode_patches(images, weight, *rest)
    encoders, channels = weight.shape[:2]
    by_column = grad.permute(0, 2, 3, 1).reshape(-1, channels).T @ rows
    taps = encoders * weight[0, 0].numel()
    grad_weight = by_column[:, :taps].unflatten(1, (encoders, -1)).transpose(0, 1).reshape(weight.shape)
    return grad_weight, by_column[:, taps : taps + encoders].T
