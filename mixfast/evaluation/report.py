"""All metrics of one set of predictions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mixfast.evaluation.accuracy import combine, member_accuracies, top_k_accuracy
from mixfast.evaluation.calibration import ReliabilityBin, calibration_error, reliability_table
from mixfast.evaluation.checks import check_labels, check_logits
from mixfast.evaluation.diversity import agreement, ratio_error
from mixfast.evaluation.likelihood import calibrated_nll, negative_log_likelihood


@dataclass(frozen=True)
class Metrics:
    """What METHODS 5 reports of an ensemble. Accuracies, ECE and agreement are fractions; likelihoods are in nats.

    top1, top5:     the ensemble's accuracy; top5 is 1 with at most 5 classes (top-min(5, K))
    nll, ece:       of the ensemble's probabilities as they are, without calibration
    nll_calibrated: NLLc; None with a single sample
    diversity:      d_re; None with one member, and if some pair of members never errs on the same sample
    agreement:      None with one member
    members:        each member's own top-1
    temperature:    fitted on the first and on the second half of the split behind NLLc; None with a single sample
    calibration:    the bins that ece is the sum over
    """

    top1: float
    top5: float
    nll: float
    nll_calibrated: float | None
    ece: float
    diversity: float | None
    agreement: float | None
    members: tuple[float, ...]
    temperature: tuple[float, float] | None
    calibration: tuple[ReliabilityBin, ...]

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, as numbers, lists, dictionaries (of bins) and None: strict JSON, since none is NaN or infinite."""
        figures = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}
        return {**figures, "calibration": [entry.to_dict() for entry in self.calibration]}


def evaluate_logits(logits_NMK: Tensor, labels_N: Tensor, average: str = "logits") -> Metrics:
    """All metrics of the members' logits [N, M, K] (any floating dtype and device) against integer labels [N].

    average: how the members become one prediction, see `combine`. For a deep ensemble pass `concatenate_members`'s
    result. Raises TypeError for wrong dtypes, ValueError for an empty set, shapes that do not fit together, logits
    that are not finite, labels outside 0..K-1 and an unknown `average`.
    """
    logits_NMK = check_logits(logits_NMK)
    labels_N = check_labels(labels_N, logits_NMK.shape[0], logits_NMK.shape[2])
    scores_NK = combine(logits_NMK, average)
    calibrated = calibrated_nll(scores_NK, labels_N)
    bins = reliability_table(scores_NK, labels_N)
    return Metrics(
        top1=top_k_accuracy(scores_NK, labels_N, 1),
        top5=top_k_accuracy(scores_NK, labels_N, 5),
        nll=negative_log_likelihood(scores_NK, labels_N),
        nll_calibrated=calibrated.nll if calibrated else None,
        ece=calibration_error(bins),
        diversity=ratio_error(logits_NMK, labels_N),
        agreement=agreement(logits_NMK),
        members=tuple(member_accuracies(logits_NMK, labels_N)),
        temperature=calibrated.temperatures if calibrated else None,
        calibration=tuple(bins),
    )
