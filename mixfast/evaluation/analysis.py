"""What the subnetworks use of the network: active filters, shared features, influence on intermediate maps.

Dimensions: M subnetworks, C channels of a feature map, K classes, F features before the heads, B images of a batch.
Source: METHODS 5; thesis 3.4.1, A.5.4 and A.6.3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from mixfast.evaluation.checks import check_positive_integer

ACTIVITY_THRESHOLDS = (0.2, 0.3, 0.4, 0.5)


def active_filters(core: nn.Module, thresholds: Sequence[float] = ACTIVITY_THRESHOLDS) -> dict[float, float]:
    """The fraction of active filters among all filters of the core's convolutions, by threshold (thesis A.5.4).

    A filter is active if its l1-norm is at least t_a times that of the largest filter of its layer; in a layer of
    zeros none is. Every convolution inside `core` counts, 1x1 shortcuts too; the core does not hold the encoders.
    Raises ValueError for a core without convolutions and for thresholds outside (0, 1].
    """
    for threshold in thresholds:
        if not 0 < threshold <= 1:
            raise ValueError(f"thresholds must lie in (0, 1], got {threshold}")
    convolutions = [module for module in core.modules() if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d))]
    if not convolutions:
        raise ValueError(f"core must contain convolutions, {type(core).__name__} has none")
    relative_norms = []
    for convolution in convolutions:
        norms = _l1_norms(convolution.weight, "core's convolution weights", kept=1)
        # The smallest normal number instead of 0 makes a layer of zeros inactive rather than 0 / 0.
        relative_norms.append(norms / norms.max().clamp(min=torch.finfo(norms.dtype).tiny))
    relative = torch.cat(relative_norms)
    return {threshold: float((relative >= threshold).double().mean()) for threshold in thresholds}


def encoder_feature_norms(weight_MC: Tensor) -> Tensor:
    """How much each encoder writes to each feature map: l1-norms [M, C], float64, of kernels [M, C, ...] (Figure 3.11).

    Takes the convolutional encoders [M, C, c, k, k] and the patch projections [M, d, c, k, k] or [M, d, inputs] alike.
    """
    return _l1_norms(weight_MC, "encoder weight", kept=2)


def classifier_feature_norms(weight_MKF: Tensor) -> Tensor:
    """How much each classifier reads of each feature: l1-norms [M, F], float64, of the columns of weights [M, K, F]."""
    if weight_MKF.ndim != 3:
        raise ValueError(f"classifier weight must have shape [M, K, F], got {list(weight_MKF.shape)}")
    return _l1_norms(weight_MKF.transpose(1, 2), "classifier weight", kept=2)


def sharing_rate(norms_MF: Tensor) -> float | None:
    """The feature sharing rate of thesis 3.4.1, in 0..1, from the features' non-negative norms [M, F].

    For a pair of subnetworks, the mean over features of min(h_0, h_1) / max(h_0, h_1); with M > 2 the mean over pairs.
    A feature that neither of a pair uses (both norms 0) says nothing and is left out. None with a single subnetwork,
    and if some pair uses no feature at all.
    """
    if norms_MF.ndim != 2 or norms_MF.numel() == 0:
        raise ValueError(f"norms must have shape [M, F] with M, F > 0, got {list(norms_MF.shape)}")
    norms_MF = norms_MF.detach().to("cpu", torch.float64)
    if not bool(((norms_MF >= 0) & norms_MF.isfinite()).all()):
        raise ValueError("norms must be finite and not negative")
    first, second = torch.triu_indices(len(norms_MF), len(norms_MF), offset=1)
    smaller_PF = torch.minimum(norms_MF[first], norms_MF[second])
    larger_PF = torch.maximum(norms_MF[first], norms_MF[second])
    used_P = (larger_PF > 0).sum(dim=1)
    if len(used_P) == 0 or (used_P == 0).any():
        return None
    ratio_PF = torch.where(larger_PF > 0, smaller_PF / larger_PF, 0.0)
    return float((ratio_PF.sum(dim=1) / used_P).mean())


def encoder_sharing_rate(weight_MC: Tensor) -> float | None:
    """The share of the mixing space that the encoders [M, C, ...] use in common, see `sharing_rate`."""
    return sharing_rate(encoder_feature_norms(weight_MC))


def classifier_sharing_rate(weight_MKF: Tensor) -> float | None:
    """The share of the last features that the classifiers [M, K, F] use in common (Table 3.6), see `sharing_rate`."""
    return sharing_rate(classifier_feature_norms(weight_MKF))


def feature_influence(
    feature_map: Callable[..., Tensor], batches: Iterable[Tensor], fixed: Tensor, num_inputs: int
) -> Tensor:
    """How much each input moves each channel of an intermediate feature map: [M, C], float64 (thesis A.6.3).

    Row i is the variance over the test set of the map's values while input i runs through the set and every other
    input stays `fixed`, averaged over space. The variance is the sample variance (divisor N - 1).

    feature_map: called as feature_map(x_0, ..., x_{M-1}) with M tensors [B, ...], under `torch.no_grad`; returns the
        map [B, C, ...spatial], or [B, C]. Put the network into evaluation mode first, otherwise its batch statistics
        leak between the samples.
    batches: the test images [B, ...] in batches of any size, gone through once.
    fixed: one image, of the shape and on the device of an image of `batches`.
    num_inputs: M.

    Raises ValueError for fewer than two images, an image that differs in shape from `fixed`, a feature map that does
    not keep the batch dimension, and maps that are not finite.
    """
    check_positive_integer(num_inputs, "num_inputs")
    moments = [_RunningVariance() for _ in range(num_inputs)]
    with torch.no_grad():
        for images_B in batches:
            if images_B.shape[1:] != fixed.shape:
                raise ValueError(
                    f"batches must hold images of fixed's shape {list(fixed.shape)}, got {list(images_B.shape[1:])}"
                )
            if len(images_B) == 0:
                continue
            still_B = fixed.expand_as(images_B)
            for varied, moment in enumerate(moments):
                inputs = [images_B if i == varied else still_B for i in range(num_inputs)]
                moment.update(_as_feature_map(feature_map(*inputs), len(images_B)))
    variances_MC = torch.stack([moment.variance() for moment in moments])
    return variances_MC.reshape(*variances_MC.shape[:2], -1).mean(dim=2)


def _l1_norms(weight: Tensor, name: str, kept: int) -> Tensor:
    """The l1-norm over all dimensions behind the first `kept`, in float64 on the CPU."""
    if weight.ndim <= kept or weight.numel() == 0:
        raise ValueError(f"{name} must have more than {kept} dimensions and no empty one, got {list(weight.shape)}")
    norms = weight.detach().to("cpu", torch.float64).abs().flatten(kept).sum(dim=kept)
    if not norms.isfinite().all():
        raise ValueError(f"{name} must be finite, got NaN or infinite values")
    return norms


def _as_feature_map(features: Tensor, batch: int) -> Tensor:
    """Checks the shape [batch, C, ...] and returns the features in float64 on the CPU."""
    if features.ndim < 2 or features.shape[0] != batch:
        raise ValueError(f"feature_map must return [B, C, ...] with B = {batch}, got {list(features.shape)}")
    return features.to("cpu", torch.float64)


class _RunningVariance:
    """Elementwise variance over batches that arrive one by one, merged pairwise (Chan et al.): no cancellation."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.zeros((), dtype=torch.float64)
        self.squares = torch.zeros((), dtype=torch.float64)

    def update(self, values_B: Tensor) -> None:
        """Adds values [B, ...], float64."""
        added = len(values_B)
        total = self.count + added
        mean = values_B.mean(dim=0)
        change = mean - self.mean
        self.squares = (
            self.squares + (values_B - mean).square().sum(dim=0) + change.square() * (self.count * added / total)
        )
        self.mean = self.mean + change * (added / total)
        self.count = total

    def variance(self) -> Tensor:
        """The sample variance, of the shape of one value."""
        if self.count < 2:
            raise ValueError(f"batches must hold at least two images for a variance, got {self.count}")
        if not self.squares.isfinite().all():
            raise ValueError("feature_map must return finite values, got NaN or infinite ones")
        return self.squares / (self.count - 1)
