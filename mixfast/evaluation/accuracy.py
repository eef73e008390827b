"""Joining the members' predictions into the ensemble's, and its accuracy.

Dimensions: N samples, M members, K classes. Source: METHODS 5 and 7.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mixfast.evaluation.checks import (
    check_choice,
    check_labels,
    check_logits,
    check_positive_integer,
    check_scores,
)

AVERAGES = ("logits", "probabilities")


def combine(logits_NMK: Tensor, average: str = "logits") -> Tensor:
    """The ensemble's log-probabilities [N, K], float64, on the CPU.

    logits_NMK: any floating dtype. `average="logits"` averages the members' logits and then takes the softmax, as the
    published results do (METHODS 7); `"probabilities"` averages the members' softmaxes, in log space so that nothing
    underflows. Raises ValueError for an unknown `average` and for logits that `check_logits` refuses.
    """
    check_choice(average, AVERAGES, "average")
    logits_NMK = check_logits(logits_NMK)
    if average == "logits":
        return logits_NMK.mean(dim=1, dtype=torch.float64).log_softmax(dim=1)
    # Member by member: a float64 copy of all the logits would be M times the size of the result.
    total_NK = torch.full((logits_NMK.shape[0], logits_NMK.shape[2]), -torch.inf, dtype=torch.float64)
    for logits_NK in logits_NMK.unbind(dim=1):
        total_NK = torch.logaddexp(total_NK, logits_NK.double().log_softmax(dim=1))
    return total_NK - math.log(logits_NMK.shape[1])


def concatenate_members(networks: Sequence[Tensor]) -> Tensor:
    """The logits [N, sum of M, K] of a deep ensemble, from the logits [N, M, K] of each of its networks.

    A deep ensemble of multi-output networks averages all their predictions alike (METHODS 2), so the subnetworks of
    all networks become members of one set. M may differ between networks; raises ValueError where N or K does.
    """
    if len(networks) == 0:
        raise ValueError("networks must hold the logits of at least one network, got none")
    checked = [check_logits(logits_NMK, f"networks[{i}]") for i, logits_NMK in enumerate(networks)]
    samples, _, classes = checked[0].shape
    for i, logits_NMK in enumerate(checked):
        if (logits_NMK.shape[0], logits_NMK.shape[2]) != (samples, classes):
            raise ValueError(
                f"networks[{i}] must have the {samples} samples and {classes} classes of networks[0], "
                f"got shape {list(logits_NMK.shape)}"
            )
    return torch.cat(checked, dim=1)


def top_k_accuracy(scores_NK: Tensor, labels_N: Tensor, k: int = 1) -> float:
    """The fraction of samples whose label is among the k best-scored classes.

    scores_NK: logits or (log-)probabilities, any floating dtype. With fewer than k classes every class is among the
    best, so the result is 1. Of equal scores the lower class index ranks first: k = 1 is then exactly `argmax`, and a
    network that scores all classes alike is credited with one class only.
    """
    check_positive_integer(k, "k")
    scores_NK = check_scores(scores_NK)
    labels_N = check_labels(labels_N, *scores_NK.shape)
    label_score_N1 = scores_NK.gather(1, labels_N[:, None])
    precedes_NK = torch.arange(scores_NK.shape[1]) < labels_N[:, None]
    ahead_NK = (scores_NK > label_score_N1) | ((scores_NK == label_score_N1) & precedes_NK)
    rank_N = ahead_NK.sum(dim=1)
    return int((rank_N < k).sum()) / len(labels_N)


def member_accuracies(logits_NMK: Tensor, labels_N: Tensor) -> list[float]:
    """The top-1 accuracy of each member alone: M fractions, in the members' order."""
    logits_NMK = check_logits(logits_NMK)
    return [top_k_accuracy(logits_NK, labels_N) for logits_NK in logits_NMK.unbind(dim=1)]
