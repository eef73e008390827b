"""Operators on the shapes of the thesis: arguments, the plain form of the same thing, and the floor, for ``bench kernels``."""

from __future__ import annotations

from collections.abc import Callable

import mixfast_kernels as mk
import torch
from mixfast_kernels.augment import augment_reference
from mixfast_kernels.mask_mix_encode import mask_mix_encode_reference
from mixfast_kernels.mixed_cross_entropy import mixed_cross_entropy_reference
from mixfast_kernels.source_attribution import source_attribution_reference
from mixfast_kernels.unmix_pool import unmix_pool_reference
from torch import Tensor
from torch.nn import functional as F

from mixfast_bench.attention_cases import ATTENTION_CASES
from mixfast_bench.kernel_problems import INPUTS, KernelCase, Maker, Problem, Rival, size_in_bytes

MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)


def stem(base: int, size: int, channels: int, stride: int = 1, kind: str = "box") -> Callable[..., Problem]:
    """A 3x3 convolution of normalised images, an encoder an input, as the trainer calls it."""

    def build(device: torch.device, dtype: torch.dtype, times: int = 1) -> Problem:
        make, batch = Maker(device, dtype), base * times
        grid = ((size - 1) // stride + 1,) * 2
        images = make.normal(INPUTS * batch, size, size, 3).permute(0, 3, 1, 2)
        index = (
            torch.randperm(INPUTS * batch, generator=torch.Generator().manual_seed(0)).view(batch, INPUTS).to(device)
        )
        weight = make.normal(INPUTS, channels, 3, 3, 3, scale=0.2)
        mixing = make.mixing(kind, batch, grid)
        scale = float(INPUTS)

        def call(weight: Tensor) -> Tensor:
            return mk.mask_mix_encode(images, weight, mixing, index=index, stride=stride, scale=scale)

        def plain(weight: Tensor) -> Tensor:
            zone = (mixing.inside, mixing.outside, mixing.box, mixing.bitmap)
            return mask_mix_encode_reference(
                images, weight, *zone, index, None, None, list(grid), stride, 1, scale, None, None
            )

        def two_convolutions(first: Tensor, second: Tensor) -> Tensor:
            rows = torch.arange(grid[0], device=device)[:, None]
            columns = torch.arange(grid[1], device=device)
            top, left, bottom, right = (edge.view(-1, 1, 1) for edge in mixing.box.unbind(1))
            seen = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
            encoded = [
                F.conv2d(images[index[:, i]], matrix, stride=stride, padding=1)
                for i, matrix in enumerate((first, second))
            ]
            return scale * torch.where((seen == (mixing.inside[:, 0] > 0)[:, None, None])[:, None], *encoded)

        rivals = {}
        if kind == "box":
            rival = Rival(two_convolutions, tuple(weight.unbind(0)), compiled=True)
            rivals = {"two conv2d and a select, compiled": rival}
        seen = 1 if kind == "box" else INPUTS
        output = batch * channels * grid[0] * grid[1] * weight.element_size()
        read = size_in_bytes(images) * seen // INPUTS
        flops = 2 * batch * grid[0] * grid[1] * channels * 27 * seen
        return Problem(call, plain, (weight,), (read + output, 2 * (read + output)), (flops, 2 * flops), rivals)

    return build


def patches(base: int, size: int, patch: int, width: int) -> Callable[..., Problem]:
    """A patch projection of uint8 images mixed patch by patch, one encoder for all, with a position embedding."""

    def build(device: torch.device, dtype: torch.dtype, times: int = 1) -> Problem:
        make, batch = Maker(device, dtype), base * times
        grid = (size // patch,) * 2
        images = make.images(INPUTS * batch, size)
        index = make.integers(INPUTS * batch, batch, INPUTS)
        weight = make.normal(1, width, 3, patch, patch, scale=0.1)
        bias, position = make.normal(1, width), make.normal(width, *grid)
        mixing = make.mixing("box", batch, grid)

        def call(weight: Tensor, bias: Tensor, position: Tensor) -> Tensor:
            more = {"index": index, "stride": patch, "padding": 0, "mean": MEAN, "std": STD}
            return mk.mask_mix_encode(images, weight, mixing, bias=bias, position=position, **more)

        def plain(weight: Tensor, bias: Tensor, position: Tensor) -> Tensor:
            zone = (mixing.inside, mixing.outside, mixing.box, mixing.bitmap)
            settings = (list(grid), patch, 0, 1.0, list(MEAN), list(STD))
            return mask_mix_encode_reference(images, weight, *zone, index, bias, position, *settings)

        leaves = (weight, bias, position)
        output = batch * width * grid[0] * grid[1] * weight.element_size()
        forward = size_in_bytes(images) // INPUTS + output + size_in_bytes(*leaves)
        flops = 2 * batch * grid[0] * grid[1] * width * 3 * patch * patch
        return Problem(call, plain, leaves, (forward, 2 * forward), (flops, 2 * flops))

    return build


def pool(base: int, channels: int, size: int, affine: bool = False) -> Callable[..., Problem]:
    """The end of a residual network: channels-last features, a mix drawn on the stem's grid."""

    def build(device: torch.device, dtype: torch.dtype, times: int = 1) -> Problem:
        make, batch = Maker(device, dtype), base * times
        features = make.normal(batch, size, size, channels).permute(0, 3, 1, 2)
        mixing = make.mixing("box", batch, (4 * size, 4 * size))
        leaves = (features, *((make.normal(channels), make.normal(channels)) if affine else ()))

        def call(features: Tensor, *scale_and_shift: Tensor) -> Tensor:
            return mk.unmix_pool(features, mixing, affine=scale_and_shift or None)

        def plain(features: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
            zone = (mixing.inside, mixing.outside, mixing.box, mixing.bitmap)
            return unmix_pool_reference(features, *zone, scale, shift, channels, list(mixing.grid))

        once = size_in_bytes(features)
        return Problem(call, plain, leaves, (once, (3 if affine else 2) * once))

    return build


def attribution(base: int, side: int, width: int, kind: str = "box", encoding: bool = False) -> Callable[..., Problem]:
    """Tokens of a vision transformer."""

    def build(device: torch.device, dtype: torch.dtype, times: int = 1) -> Problem:
        make, batch = Maker(device, dtype), base * times
        tokens, bias = make.normal(batch, side * side, width), make.normal(INPUTS, width)
        mixing = make.mixing(kind, batch, (side, side))
        weight = make.normal(INPUTS, width, width, scale=width**-0.5)
        leaves = (tokens, bias, weight) if encoding else (tokens, bias)

        def call(tokens: Tensor, bias: Tensor, weight: Tensor | None = None) -> Tensor:
            return mk.source_attribution(tokens, mixing, bias, weight)

        def plain(tokens: Tensor, bias: Tensor, weight: Tensor | None = None) -> Tensor:
            zone = (mixing.inside, mixing.outside, mixing.box, mixing.bitmap)
            return source_attribution_reference(tokens, *zone, bias, weight, [side, side])

        once = size_in_bytes(tokens)
        if not encoding:
            # Backward only reads: the gradient of the tokens is the incoming one.
            return Problem(call, plain, leaves, (2 * once, 3 * once))
        product = 2 * batch * side * side * width * width
        linear = Rival(F.linear, (tokens, weight[0].clone(), bias[0].clone()))
        return Problem(call, plain, leaves, (2 * once, 5 * once), (product, 3 * product), {"one linear": linear})

    return build


def loss(base: int, classes: int, inputs: int = INPUTS) -> Callable[..., Problem]:
    """Two labels a head, smoothing, a weight a head."""

    def build(device: torch.device, dtype: torch.dtype, times: int = 1) -> Problem:
        make, batch = Maker(device, dtype), base * times
        logits = make.normal(batch, inputs, classes)
        target, other = make.integers(classes, batch, inputs), make.integers(classes, batch, inputs)
        weight, share = make.uniform(batch, inputs), make.uniform(batch, inputs)

        def call(logits: Tensor) -> Tensor:
            return mk.mixed_cross_entropy(logits, target, weight, other=other, share=share, smoothing=0.1)

        def plain(logits: Tensor) -> Tensor:
            return mixed_cross_entropy_reference(logits, target, weight, other, share, 0.1)[0]

        once = size_in_bytes(logits)
        return Problem(call, plain, (logits,), (once, 3 * once))

    return build


def crops(base: int, size: int, pad: int, sources: int = 1) -> Callable[..., Problem]:
    """Padded, cropped, flipped, normalised views; two sources are blended with a box (pixel CutMix)."""

    def build(device: torch.device, dtype: torch.dtype, times: int = 1) -> Problem:
        make, batch = Maker(device, dtype), base * times
        images = make.images(2 * batch, size)
        index = make.integers(2 * batch, batch, sources)
        crop = make.integers(2 * pad + 1, batch, sources, 2)
        flip = make.integers(2, batch, sources) > 0
        mixing = make.mixing("box", batch, (size, size)) if sources > 1 else None

        def call() -> Tensor:
            settings = {"pad": pad, "mean": MEAN, "std": STD, "dtype": dtype}
            return mk.augment(images, index=index, crop=crop, flip=flip, mixing=mixing, **settings)

        def plain() -> Tensor:
            zone = (None,) * 4
            if mixing is not None:
                zone = (mixing.inside, mixing.outside, mixing.box, mixing.bitmap)
            settings = (pad, list(MEAN), list(STD), dtype, [size, size])
            return augment_reference(images, index, crop, flip, *zone, *settings)

        written = 3 * batch * size * size
        element = torch.empty((), dtype=dtype).element_size()
        return Problem(call, plain, (), (written * (1 + element),) * 2)

    return build


KERNEL_CASES = (
    KernelCase("mask_mix_encode", "3x3 stem 16, 32x32, cut (WRN-28)", stem(64, 32, 16)),
    KernelCase("mask_mix_encode", "3x3 stem 16, 32x32, linear (WRN-28)", stem(64, 32, 16, kind="linear")),
    KernelCase("mask_mix_encode", "3x3 stem 192 /2, 64x64, cut (PreActResNet-18-3)", stem(32, 64, 192, 2)),
    KernelCase("mask_mix_encode", "patch 4, 32x32, 384 (ConViT)", patches(64, 32, 4, 384)),
    KernelCase("mask_mix_encode", "patch 16, 224x224, 288 (CaiT-XS)", patches(32, 224, 16, 288)),
    KernelCase("unmix_pool", "128 channels, 8x8 (WRN-28-2)", pool(64, 128, 8)),
    KernelCase("unmix_pool", "640 channels, 8x8 (WRN-28-10)", pool(64, 640, 8)),
    KernelCase("unmix_pool", "1536 channels, 4x4, BN + ReLU (PreActResNet-18-3)", pool(100, 1536, 4, affine=True)),
    KernelCase("unmix_pool", "640 channels, 8x8, batch 512", pool(512, 640, 8), streaming=True),
    KernelCase("source_attribution", "embedding, 64 x 384 (ConViT)", attribution(64, 8, 384)),
    KernelCase("source_attribution", "embedding, 196 x 384, batch 256", attribution(256, 14, 384), streaming=True),
    KernelCase("source_attribution", "encoding, 64 x 384, cut (ConViT)", attribution(64, 8, 384, encoding=True)),
    KernelCase(
        "source_attribution", "encoding, 64 x 288, bitmap (CaiT-XS)", attribution(64, 8, 288, "bitmap", encoding=True)
    ),
    KernelCase("source_attribution", "encoding, 196 x 192, cut (CaiT-XXS)", attribution(32, 14, 192, encoding=True)),
    KernelCase("mixed_cross_entropy", "2 heads, 100 classes, batch 64", loss(64, 100)),
    KernelCase("mixed_cross_entropy", "2 heads, 200 classes, batch 128", loss(128, 200)),
    KernelCase("mixed_cross_entropy", "3 heads, 1000 classes, batch 256", loss(256, 1000, 3)),
    KernelCase("augment", "32x32, crop and flip", crops(128, 32, 4)),
    KernelCase("augment", "64x64, crop, flip, CutMix", crops(128, 64, 8, 2)),
    KernelCase("augment", "224x224, crop and flip", crops(128, 224, 8), streaming=True),
    *ATTENTION_CASES,
)
