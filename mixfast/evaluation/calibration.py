"""Expected calibration error and the reliability table behind it.

Dimensions: N samples, K classes. Source: METHODS 5, thesis A.1.3.2 (ECE, 15 bins).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from mixfast.evaluation.checks import check_labels, check_positive_integer, check_scores

NUM_BINS = 15


@dataclass(frozen=True)
class ReliabilityBin:
    """The samples with a confidence in (lower, upper], and their mean confidence and accuracy: None without samples."""

    lower: float
    upper: float
    count: int
    confidence: float | None
    accuracy: float | None

    def to_dict(self) -> dict[str, float | int | None]:
        """The fields as a dictionary that json can write."""
        return asdict(self)


def reliability_table(scores_NK: Tensor, labels_N: Tensor, bins: int = NUM_BINS) -> list[ReliabilityBin]:
    """Accuracy against confidence in `bins` bins of equal width over (0, 1].

    scores_NK: logits or log-probabilities, any floating dtype; labels_N: integers. A sample's confidence is the
    probability of its best class. A confidence on a boundary belongs to the lower bin.
    """
    check_positive_integer(bins, "bins")
    scores_NK = check_scores(scores_NK)
    labels_N = check_labels(labels_N, *scores_NK.shape)
    confidence_N = scores_NK.softmax(dim=1).amax(dim=1)
    # The argmax of the scores, not of the probabilities: rounding ties those where the scores still differ.
    correct_N = (scores_NK.argmax(dim=1) == labels_N).double()

    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)
    # Inner edges only: rounding can put a confidence just above 1, which still belongs to the last bin.
    bin_N = torch.bucketize(confidence_N, edges[1:-1])
    counts = torch.bincount(bin_N, minlength=bins).tolist()
    confidences = torch.bincount(bin_N, weights=confidence_N, minlength=bins).tolist()
    hits = torch.bincount(bin_N, weights=correct_N, minlength=bins).tolist()
    return [
        ReliabilityBin(
            lower=float(edges[i]),
            upper=float(edges[i + 1]),
            count=counts[i],
            confidence=confidences[i] / counts[i] if counts[i] else None,
            accuracy=hits[i] / counts[i] if counts[i] else None,
        )
        for i in range(bins)
    ]


def expected_calibration_error(scores_NK: Tensor, labels_N: Tensor, bins: int = NUM_BINS) -> float:
    """ECE of predictions, see `calibration_error`; arguments as of `reliability_table`."""
    return calibration_error(reliability_table(scores_NK, labels_N, bins))


def calibration_error(table: Sequence[ReliabilityBin]) -> float:
    """ECE: the mean over bins of |accuracy - confidence|, weighted by the bins' share of the samples; in 0..1."""
    weighted_gap = 0.0
    for entry in table:
        if entry.accuracy is not None and entry.confidence is not None:
            weighted_gap += entry.count * abs(entry.accuracy - entry.confidence)
    return weighted_gap / sum(entry.count for entry in table)
