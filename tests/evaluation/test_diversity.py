"""Ratio-error and agreement."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mixfast.evaluation import agreement, ratio_error

from . import reference


def predicting(*predictions_M: list[int], classes: int = 4) -> Tensor:
    """Logits [N, M, K] of members that predict the given classes."""
    return torch.nn.functional.one_hot(torch.tensor(predictions_M).T, classes).float()


def test_by_hand() -> None:
    labels_N = torch.tensor([0, 0, 0, 0, 1, 1])
    # Errors of the first: samples 1, 2, 5; of the second: 2, 3, 5. Both: 2, 5. One: 1, 3.
    logits_NMK = predicting([0, 1, 1, 0, 1, 2], [0, 0, 2, 3, 1, 2])
    assert ratio_error(logits_NMK, labels_N) == 1.0
    assert agreement(logits_NMK) == 0.5


def test_pairs_are_averaged_by_hand() -> None:
    labels_N = torch.tensor([0, 0, 0])
    # Wrong sets {0}, {0, 1}, {0, 1, 2}: ratios 1/1 for (0, 1), 2/1 for (0, 2), 1/2 for (1, 2).
    logits_NMK = predicting([1, 0, 0], [1, 1, 0], [1, 1, 1])
    assert ratio_error(logits_NMK, labels_N) == pytest.approx((1 + 2 + 0.5) / 3)
    assert agreement(logits_NMK) == pytest.approx((2 / 3 + 1 / 3 + 2 / 3) / 3)


@pytest.mark.parametrize("members", [2, 3, 6])
def test_equals_the_loop(members: int) -> None:
    logits_NMK, labels_N = reference.random_case(200, members, 5)
    assert ratio_error(logits_NMK, labels_N) == pytest.approx(
        reference.ratio_error(logits_NMK.numpy(), labels_N.numpy()), rel=1e-12
    )
    assert agreement(logits_NMK) == pytest.approx(reference.agreement(logits_NMK.numpy()), rel=1e-12)


def test_identical_members_are_not_diverse() -> None:
    logits_NMK, labels_N = reference.random_case(50, 1, 5)
    twice_NMK = logits_NMK.repeat(1, 2, 1)
    assert ratio_error(twice_NMK, labels_N) == 0.0
    assert agreement(twice_NMK) == 1.0


def test_one_member_has_no_pairs() -> None:
    logits_NMK, labels_N = reference.random_case(20, 1, 5)
    assert ratio_error(logits_NMK, labels_N) is None
    assert agreement(logits_NMK) is None


def test_a_pair_without_simultaneous_errors_leaves_the_ratio_undefined() -> None:
    labels_N = torch.tensor([0, 0])
    assert ratio_error(predicting([1, 0], [0, 1]), labels_N) is None
    assert ratio_error(predicting([0, 0], [0, 0]), labels_N) is None
    # Members 0 and 2 err together, the other pairs do not: still undefined rather than the ratio of one pair.
    assert ratio_error(predicting([1, 0], [0, 1], [1, 0]), labels_N) is None
