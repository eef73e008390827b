"""Expected calibration error and reliability tables."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mixfast.evaluation import expected_calibration_error, reliability_table

from . import reference


@pytest.mark.parametrize("bins", [1, 10, 15])
@pytest.mark.parametrize("classes", [2, 10])
def test_ece_equals_the_loop(bins: int, classes: int) -> None:
    logits_NMK, labels_N = reference.random_case(250, 1, classes)
    probabilities = logits_NMK[:, 0].double().softmax(dim=1).numpy()
    expected = reference.ece(probabilities, labels_N.numpy(), bins)
    assert expected > 0.01
    assert expected_calibration_error(logits_NMK[:, 0], labels_N, bins) == pytest.approx(expected, rel=1e-12)


def test_table_by_hand() -> None:
    # Confidences 0.55 (right), 0.58 (wrong), 0.9 (right) in four bins: two of them hold samples.
    probabilities_NK = torch.tensor([[0.55, 0.45], [0.58, 0.42], [0.1, 0.9]], dtype=torch.float64)
    table = reliability_table(probabilities_NK.log(), torch.tensor([0, 1, 1]), bins=4)
    assert [entry.count for entry in table] == [0, 0, 2, 1]
    assert [(entry.lower, entry.upper) for entry in table] == [(0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0)]
    assert (table[2].confidence, table[2].accuracy) == (pytest.approx(0.565), 0.5)
    assert (table[3].confidence, table[3].accuracy) == (pytest.approx(0.9), 1.0)
    assert (table[0].confidence, table[0].accuracy) == (None, None)
    ece = expected_calibration_error(probabilities_NK.log(), torch.tensor([0, 1, 1]), bins=4)
    assert ece == pytest.approx(2 / 3 * 0.065 + 1 / 3 * 0.1)
    json.dumps([entry.to_dict() for entry in table], allow_nan=False)


def test_certainty_belongs_to_the_last_bin_and_a_boundary_to_the_lower_one() -> None:
    scores_NK = torch.tensor([[1000.0, 0.0], [0.0, 0.0]])
    assert [entry.count for entry in reliability_table(scores_NK, torch.tensor([0, 0]), bins=4)] == [0, 1, 0, 1]


def test_confidently_wrong_is_the_worst_and_confidently_right_the_best() -> None:
    scores_NK = torch.tensor([[1000.0, 0.0]] * 3)
    assert expected_calibration_error(scores_NK, torch.tensor([1, 1, 1])) == 1.0
    assert expected_calibration_error(scores_NK, torch.tensor([0, 0, 0])) == 0.0


def test_predictions_are_those_of_the_scores_where_probabilities_tie() -> None:
    scores_NK = torch.tensor([[0.0, 1e-17]], dtype=torch.float64)
    assert scores_NK.softmax(dim=1).tolist() == [[0.5, 0.5]]
    assert reliability_table(scores_NK, torch.tensor([1]), bins=1)[0].accuracy == 1.0


@settings(deadline=None, max_examples=60)
@given(
    scores=st.lists(st.lists(st.floats(-1e4, 1e4), min_size=3, max_size=3), min_size=1, max_size=20),
    bins=st.integers(1, 20),
    data=st.data(),
)
def test_ece_is_a_fraction_and_the_bins_hold_every_sample(
    scores: list[list[float]], bins: int, data: st.DataObject
) -> None:
    labels = data.draw(st.lists(st.integers(0, 2), min_size=len(scores), max_size=len(scores)))
    scores_NK, labels_N = torch.tensor(scores, dtype=torch.float64), torch.tensor(labels)
    assert 0 <= expected_calibration_error(scores_NK, labels_N, bins) <= 1
    table = reliability_table(scores_NK, labels_N, bins)
    assert sum(entry.count for entry in table) == len(labels)
    for entry in table:
        if entry.count:
            assert entry.lower - 1e-12 <= entry.confidence <= entry.upper + 1e-12


@pytest.mark.parametrize(("bins", "error"), [(0, ValueError), (2.5, TypeError)])
def test_senseless_bins_are_refused(bins: object, error: type[Exception]) -> None:
    with pytest.raises(error, match="bins must be"):
        reliability_table(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64), bins)
