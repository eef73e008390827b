"""How differently the members of an ensemble predict.

Dimensions: N samples, M members, K classes. A member predicts the argmax of its logits. Source: METHODS 5 and 7,
thesis 3.3.5.2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mixfast.evaluation.checks import check_labels, check_logits


def ratio_error(logits_NMK: Tensor, labels_N: Tensor) -> float | None:
    """d_re, the ratio-error of Aksela 2003: (N01 + N10) / N00, averaged over all pairs of members.

    For a pair of members, N01 + N10 counts the samples on which exactly one of them errs and N00 those on which both
    do. None with a single member, and None if some pair never errs on the same sample: its ratio is then infinite (or
    0 / 0), and leaving the pair out would understate the diversity.
    """
    logits_NMK = check_logits(logits_NMK)
    labels_N = check_labels(labels_N, logits_NMK.shape[0], logits_NMK.shape[2])
    # float64 holds counts exactly and has a matrix product, which int64 lacks on some builds.
    wrong_NM = (logits_NMK.argmax(dim=2) != labels_N[:, None]).double()
    both_MM = wrong_NM.T @ wrong_NM
    errors_M = both_MM.diagonal()
    exactly_one_MM = errors_M[:, None] + errors_M[None, :] - 2 * both_MM
    first, second = _pairs(logits_NMK.shape[1])
    both, exactly_one = both_MM[first, second], exactly_one_MM[first, second]
    if len(both) == 0 or (both == 0).any():
        return None
    return float((exactly_one / both).mean())


def agreement(logits_NMK: Tensor) -> float | None:
    """The fraction of samples on which two members predict the same class, averaged over pairs; None for one member."""
    prediction_NM = check_logits(logits_NMK).argmax(dim=2)
    first, second = _pairs(prediction_NM.shape[1])
    if len(first) == 0:
        return None
    return float((prediction_NM[:, first] == prediction_NM[:, second]).double().mean())


def _pairs(members: int) -> tuple[Tensor, Tensor]:
    """Both members of each of the M (M - 1) / 2 unordered pairs."""
    first, second = torch.triu_indices(members, members, offset=1)
    return first, second
