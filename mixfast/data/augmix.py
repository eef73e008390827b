"""AugMix for a whole batch on the tensor's device (thesis A.1.3.1; Hendrycks et al., "AugMix", ICLR 2020).

Each image runs through `width` independent chains of `depth` random operations; the chains are averaged with
Dirichlet weights and the average is interpolated with the clean image:

    out = (1 - m) * norm(x) + m * sum_i w_i * norm(chain_i(x))        w ~ Dirichlet(1, .., 1), m ~ Beta(1, 1)

Legend of the dimension suffixes: D depth, W width (number of chains), B batch, N = W * B chains flattened,
n the chains of one group of operations, c channels, H and (in image shapes only) W pixels.

Which chain gets which operation is drawn on the host, so the sizes of the groups that share a kernel are known
without asking the device. Everything else (levels, signs, weights, m) is drawn on the device.

Conventions are those of the published AugMix code, which works on 8-bit PIL images:
- all geometric operations are bilinear, interpolated values are truncated to 8 bits, pixels whose source centre
  lies outside the image are black, and neighbours beyond the border repeat the border;
- rotations turn about the image's centre, shears leave the top (or left) edge in place;
- rotations are whole degrees and translations whole pixels (truncated towards zero), shears are not rounded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2.functional import equalize_image

from mixfast.data.grouped import (
    Place,
    check_generator,
    check_host_rng,
    check_pixels,
    plan_steps,
    posterize_solarize,
    to_device,
)
from mixfast.data.kept import Kept

# AugMix's operations without those that overlap with CIFAR-100-C's corruptions (thesis A.1.3.1). The position is the
# operation's code in `AugMixDraws.operations`.
OPERATIONS = (
    "equalize",
    "posterize",
    "rotate",
    "solarize",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
)
_CODE = {name: code for code, name in enumerate(OPERATIONS)}

# Operations of one kind differ in per-sample parameters only and run as one group.
_EQUALIZE, _POINTWISE, _GEOMETRIC = range(3)
_KIND_OF_NAME = {"equalize": _EQUALIZE, "posterize": _POINTWISE, "solarize": _POINTWISE}
_KIND_OF_CODE = np.array([_KIND_OF_NAME.get(name, _GEOMETRIC) for name in OPERATIONS])

# Levels run from 0.1 to the severity on a scale that ends at 10, where these strengths are reached.
MIN_LEVEL, MAX_LEVEL = 0.1, 10.0
_MAX_ROTATION_DEGREES = 30.0
_MAX_SHEAR = 0.3
_MAX_TRANSLATION = 1 / 3  # of the image's width or height
_POSTERIZE_BITS = 4  # kept at level 0, none at level 10
_SOLARIZE_RANGE = 256

# Truncation would turn 100 - 1e-3, float32's idea of an interpolated 100, into 99. The guard is above float32's error
# up to some 256 pixels a side, and so small that only 0.4% of truly interpolated pixels come out one level higher.
_TRUNCATION_GUARD = 1 / 256


@dataclass(frozen=True)
class AugMixDraws:
    """All that is random in one call of AugMix.

    operations: int64 [D, W, B], on the host, codes into `OPERATIONS`
    levels: float32 [D, W, B] in [0.1, severity]
    signs: float32 [D, W, B], +1 or -1, the direction of geometric operations
    weights: float32 [W, B], the chains' share in their mix, summing to 1 over W
    strength: float32 [B], the mix's share in the result (m), 0 gives the clean image
    """

    operations: np.ndarray
    levels: Tensor
    signs: Tensor
    weights: Tensor
    strength: Tensor

    def of(self, kept: Kept) -> AugMixDraws:
        """The draws of some of the images."""
        tensors = (self.levels, self.signs, self.weights, self.strength)
        return AugMixDraws(self.operations[..., kept.host], *(tensor[..., kept.device] for tensor in tensors))


def augmix(
    images: Tensor,
    *,
    severity: float = 3,
    width: int = 3,
    depth: int = 4,
    host_rng: np.random.Generator,
    generator: torch.Generator,
    mean: Sequence[float],
    std: Sequence[float],
    kept: Kept | None = None,
) -> Tensor:
    """AugMix and normalisation of a batch; defaults are the thesis's (A.1.3.1).

    images: uint8 [B, c, H, W], any strides, already cropped and flipped
    severity: highest level of an operation, 0.1 to 10
    width, depth: number of chains, and of operations in each
    host_rng: draws the operations
    generator: on the images' device, draws levels, signs, weights and m
    mean, std: c numbers each, in units of 0..1
    kept: which images of a larger batch these are; they get what they would get there
    Returns float32 [B, c, H, W] in channels-last memory, normalised. The host never waits for the device.

    Raises TypeError for an argument of the wrong type or dtype, ValueError for a wrong shape, range or device.
    """
    check_pixels(images, "AugMix")
    _check_settings(severity, width, depth)
    check_host_rng(host_rng)
    check_generator(generator, images.device)
    _check_normalisation(mean, std, images.shape[1])
    drawn = images.shape[0] if kept is None else kept.total
    draws = draw_augmix(drawn, severity=severity, width=width, depth=depth, host_rng=host_rng, generator=generator)
    draws = draws if kept is None else draws.of(kept)
    return apply_augmix(images, draws, mean=mean, std=std)


def draw_augmix(
    batch: int, *, severity: float, width: int, depth: int, host_rng: np.random.Generator, generator: torch.Generator
) -> AugMixDraws:
    """Draws for `batch` images; the tensors lie on the generator's device. Arguments as in `augmix`."""
    device = generator.device
    shape_DWB = (depth, width, batch)
    operations_DWB = host_rng.integers(len(OPERATIONS), size=shape_DWB)
    levels_DWB = MIN_LEVEL + (severity - MIN_LEVEL) * torch.rand(shape_DWB, generator=generator, device=device)
    signs_DWB = 2.0 * torch.randint(2, shape_DWB, generator=generator, device=device) - 1.0
    # Normalised exponentials are Dirichlet(1, .., 1); Beta(1, 1) is uniform.
    shares_WB = torch.empty((width, batch), device=device).exponential_(generator=generator)
    weights_WB = shares_WB / shares_WB.sum(0)
    strength_B = torch.rand(batch, generator=generator, device=device)
    return AugMixDraws(operations_DWB, levels_DWB, signs_DWB, weights_WB, strength_B)


def apply_augmix(images: Tensor, draws: AugMixDraws, *, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """`augmix` with everything random given: a pure function. Arguments and result are those of `augmix`, which checks
    them. Raises ValueError if the draws are for another batch size."""
    batch = images.shape[0]
    if draws.operations.shape[-1] != batch:
        raise ValueError(f"draws must be for {batch} images, as images has, got draws for {draws.operations.shape[-1]}")
    mean_c, std_c = np.asarray(mean, dtype=np.float64), np.asarray(std, dtype=np.float64)
    affine_2c = np.stack([1 / (255 * std_c), -mean_c / std_c]).astype(np.float32)
    scale_c11, shift_c11 = to_device(affine_2c, images.device)[:, :, None, None]

    chains_WBcHW = _run_chains(images, draws)
    mixed = images * (1 - draws.strength)[:, None, None, None]
    for chain_BcHW, weight_B in zip(chains_WBcHW, draws.weights * draws.strength, strict=True):
        mixed += chain_BcHW * weight_B[:, None, None, None]
    # The weights sum to 1 and the normalisation is affine, so normalising the mix is mixing the normalised images.
    return mixed.mul_(scale_c11).add_(shift_c11).contiguous(memory_format=torch.channels_last)


def _run_chains(images: Tensor, draws: AugMixDraws) -> Tensor:
    """Every chain's last image, uint8 [W, B, c, H, W]."""
    depth, width, batch = draws.operations.shape
    steps = plan_steps(draws.operations.reshape(depth, width * batch), _KIND_OF_CODE, batch, images.device)
    # Everything per step is put in the order of the groups, so that a group's parameters are a slice.
    levels_DN = draws.levels.reshape(depth, -1).gather(1, steps.order)
    signs_DN = draws.signs.reshape(depth, -1).gather(1, steps.order)
    keep_DN, threshold_DN = _pointwise_parameters(steps.codes, levels_DN)
    matrix_6DN = _sampling_matrices(steps.codes, levels_DN, signs_DN, images.shape[-2:])

    def equalize(pixels: Tensor, _: Place) -> Tensor:
        return equalize_image(pixels)

    def pointwise(pixels: Tensor, place: Place) -> Tensor:
        return posterize_solarize(pixels, keep_DN[place], threshold_DN[place])

    def geometric(pixels: Tensor, place: Place) -> Tensor:
        step, group = place
        return _resample(pixels, matrix_6DN[:, step, group])

    return steps.run(images, (equalize, pointwise, geometric)).unflatten(0, (width, batch))


def _pointwise_parameters(codes: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
    """Bit mask (uint8) that posterises, threshold (int16) that solarises; neutral (255, 256) for other operations."""
    dropped_bits = 8 - _POSTERIZE_BITS + (levels * _POSTERIZE_BITS / MAX_LEVEL).to(torch.int32)
    keep = torch.where(codes == _CODE["posterize"], 256 - 2**dropped_bits, 255).to(torch.uint8)
    threshold = _SOLARIZE_RANGE - (levels * _SOLARIZE_RANGE / MAX_LEVEL).to(torch.int32)
    return keep, torch.where(codes == _CODE["solarize"], threshold, 256).to(torch.int16)


def _sampling_matrices(codes: Tensor, levels: Tensor, signs: Tensor, size: tuple[int, int]) -> Tensor:
    """Matrices (a, b, c, d, e, f) [6, D, N]: output pixel (x, y) shows source (a x + b y + c, d x + e y + f).

    Coordinates are in pixels from the image's corner, pixel centres at halves. At most one of the five amounts below
    is not zero, so the sum of their effects is the operation drawn. Identity for operations that are not geometric.
    """
    height, width = size

    def amount(name: str, largest: float, whole: bool) -> Tensor:
        value = levels * (largest / MAX_LEVEL)
        return torch.where(codes == _CODE[name], signs * (value.trunc() if whole else value), 0.0)

    angle = amount("rotate", _MAX_ROTATION_DEGREES, whole=True) * (math.pi / 180)
    shear_x, shear_y = amount("shear_x", _MAX_SHEAR, whole=False), amount("shear_y", _MAX_SHEAR, whole=False)
    move_x = amount("translate_x", _MAX_TRANSLATION * width, whole=True)
    move_y = amount("translate_y", _MAX_TRANSLATION * height, whole=True)

    cosine, sine = angle.cos(), angle.sin()
    centre_x, centre_y = width / 2, height / 2
    offset_x = centre_x * (1 - cosine) + centre_y * sine + move_x
    offset_y = centre_y * (1 - cosine) - centre_x * sine + move_y
    return torch.stack([cosine, shear_x - sine, offset_x, shear_y + sine, cosine, offset_y])


def _resample(images: Tensor, matrix_6n: Tensor) -> Tensor:
    """uint8 [n, c, H, W] resampled bilinearly at the positions that `_sampling_matrices` describes."""
    height, width = images.shape[-2:]
    # grid_sample counts from -1 to 1 between the edges. Whole-pixel moves never meet an edge, so rounding is harmless.
    a, b, c = (matrix_6n[:3] * (2 / width))[:, :, None, None]
    d, e, f = (matrix_6n[3:] * (2 / height))[:, :, None, None]
    x_W = torch.arange(width, device=images.device) + 0.5
    y_H1 = (torch.arange(height, device=images.device) + 0.5)[:, None]
    # Written out rather than as a matrix product, which TF32 may round to 10 bits on a GPU.
    x_nHW = a * x_W + (b * y_H1 + (c - 1))
    y_nHW = d * x_W + (e * y_H1 + (f - 1))
    inside_nHW = (x_nHW.abs() < 1) & (y_nHW.abs() < 1)
    grid_nHW2 = torch.stack([x_nHW, y_nHW], dim=-1)
    values = F.grid_sample(images.float(), grid_nHW2, mode="bilinear", padding_mode="border", align_corners=False)
    return values.add_(_TRUNCATION_GUARD).to(torch.uint8).mul_(inside_nHW[:, None])


def _check_settings(severity: float, width: int, depth: int) -> None:
    if not isinstance(severity, Real):
        raise TypeError(f"severity must be a number, got {type(severity).__name__}")
    if not MIN_LEVEL <= severity <= MAX_LEVEL:
        raise ValueError(f"severity must be between {MIN_LEVEL} and {MAX_LEVEL}, got {severity}")
    for name, value in (("width", width), ("depth", depth)):
        if not isinstance(value, Integral):
            raise TypeError(f"{name} must be an int, got {type(value).__name__}")
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")


def _check_normalisation(mean: Sequence[float], std: Sequence[float], channels: int) -> None:
    for name, values in (("mean", mean), ("std", std)):
        # A tensor on the device would make the host wait for it.
        if not isinstance(values, Sequence) or not all(isinstance(value, Real) for value in values):
            raise TypeError(f"{name} must be a tuple or list of numbers, got {type(values).__name__}: {values!r}")
        if len(values) != channels:
            raise ValueError(f"{name} must have one number for each of the {channels} channels, got {len(values)}")
    if not all(value > 0 for value in std):
        raise ValueError(f"std must be positive, got {tuple(std)}")
