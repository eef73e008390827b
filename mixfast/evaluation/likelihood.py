"""Negative log-likelihood, the temperature that minimises it, and NLLc: the likelihood after calibration.

Dimensions: N samples, K classes. Scores are the ensemble's averaged logits or log-probabilities; they are normalised
here, which leaves log-probabilities as they are. Source: METHODS 5 and 7, thesis 3.3.4.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from mixfast.evaluation.checks import check_labels, check_scores

# A perfectly classified half wants T -> 0 and one worse than chance T -> infinity. The lower bound keeps what a sample
# of the other half can cost finite (its margin times 100); the upper one, where any ordinary logits are flat, is safe.
LOWEST_TEMPERATURE = 1e-2
HIGHEST_TEMPERATURE = 1e4
RELATIVE_TOLERANCE = 1e-8

# A backstop: geometric bisection of the bounds alone would meet the tolerance in 31 steps, and Newton steps make fewer.
_MOST_STEPS = 200


class CalibratedLikelihood(NamedTuple):
    """NLLc and the two temperatures behind it: fitted on the split's first half (applied to its second), and back."""

    nll: float
    temperatures: tuple[float, float]


def negative_log_likelihood(scores_NK: Tensor, labels_N: Tensor) -> float:
    """The mean over samples of -log p(label), in nats; scores [N, K] floating, labels [N] integers."""
    scores_NK = check_scores(scores_NK)
    labels_N = check_labels(labels_N, *scores_NK.shape)
    return _mean_nll(scores_NK, labels_N)


def fit_temperature(scores_NK: Tensor, labels_N: Tensor) -> float:
    """The temperature T that minimises the negative log-likelihood of softmax(scores / T) (Guo et al. 2017).

    In beta = 1 / T the likelihood is convex, so its slope is monotone: Newton's method from beta = 1, inside a bracket
    of the root that falls back on geometric bisection, to a relative error of `RELATIVE_TOLERANCE`. The result lies in
    [LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE], at the lower bound if every sample is classified correctly, at the upper
    one if no temperature beats a uniform prediction. Where T = 1 is a minimum already (all scores equal; a likelihood
    of 1 to the last bit) the result is 1.
    """
    scores_NK = check_scores(scores_NK)
    labels_N = check_labels(labels_N, *scores_NK.shape)
    # Relative to each sample's best class: what is exponentiated is at most 1, and a correct sample's gap is exactly 0.
    gap_NK = scores_NK - scores_NK.amax(dim=1, keepdim=True)
    return 1.0 / _minimise_over_inverse_temperature(gap_NK, gap_NK.gather(1, labels_N[:, None]))


def calibrated_nll(scores_NK: Tensor, labels_N: Tensor, *, seed: int = 0) -> CalibratedLikelihood | None:
    """NLLc: each half of the test set scored at the temperature fitted on the other half, averaged over the halves.

    The halves are the first N // 2 and the remaining entries of `torch.randperm(N)` drawn from a CPU generator with
    `seed`: fixed for a given N, so that networks are compared on the same halves. Both weigh the same in the mean, also
    for odd N. None if N = 1, which has no second half. The thesis calibrates after averaging the members: pass the
    ensemble's scores (`combine`).
    """
    scores_NK = check_scores(scores_NK)
    labels_N = check_labels(labels_N, *scores_NK.shape)
    if len(labels_N) < 2:
        return None
    order_N = torch.randperm(len(labels_N), generator=torch.Generator().manual_seed(seed))
    first, second = order_N[: len(labels_N) // 2], order_N[len(labels_N) // 2 :]
    temperatures = (
        fit_temperature(scores_NK[first], labels_N[first]),
        fit_temperature(scores_NK[second], labels_N[second]),
    )
    halves = (
        _mean_nll(scores_NK[second] / temperatures[0], labels_N[second]),
        _mean_nll(scores_NK[first] / temperatures[1], labels_N[first]),
    )
    return CalibratedLikelihood(sum(halves) / 2, temperatures)


def _mean_nll(scores_NK: Tensor, labels_N: Tensor) -> float:
    return float(torch.nn.functional.cross_entropy(scores_NK, labels_N))


def _slope_and_curvature(gap_NK: Tensor, label_gap_N1: Tensor, beta: float) -> tuple[float, float]:
    """First and second derivative of mean(logsumexp(beta * gap) - beta * label_gap) in beta."""
    probability_NK = (beta * gap_NK).softmax(dim=1)
    expected_N1 = (probability_NK * gap_NK).sum(dim=1, keepdim=True)
    variance_N = (probability_NK * (gap_NK - expected_N1).square()).sum(dim=1)
    return float((expected_N1 - label_gap_N1).mean()), float(variance_N.mean())


def _minimise_over_inverse_temperature(gap_NK: Tensor, label_gap_N1: Tensor) -> float:
    low, high = 1.0 / HIGHEST_TEMPERATURE, 1.0 / LOWEST_TEMPERATURE
    beta = 1.0
    slope, curvature = _slope_and_curvature(gap_NK, label_gap_N1, beta)
    if slope > 0 and _slope_and_curvature(gap_NK, label_gap_N1, low)[0] >= 0:
        return low
    if slope < 0 and _slope_and_curvature(gap_NK, label_gap_N1, high)[0] <= 0:
        return high

    for _ in range(_MOST_STEPS):
        if slope == 0:
            return beta
        low, high = (low, beta) if slope > 0 else (beta, high)
        if high - low <= RELATIVE_TOLERANCE * low:
            break
        # At least half the tolerance: a step that has converged then lands behind the root, which closes the bracket.
        newton = -slope / curvature if curvature > 0 else math.inf
        step = math.copysign(max(abs(newton), RELATIVE_TOLERANCE * beta / 2), newton)
        beta = beta + step if low < beta + step < high else math.sqrt(low * high)
        slope, curvature = _slope_and_curvature(gap_NK, label_gap_N1, beta)
    return math.sqrt(low * high)
