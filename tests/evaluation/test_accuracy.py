"""Combining members and accuracies."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mixfast.evaluation import combine, concatenate_members, member_accuracies, top_k_accuracy

from . import reference


@pytest.mark.parametrize("average", ["logits", "probabilities"])
@pytest.mark.parametrize("members", [1, 2, 5])
def test_combine_equals_the_loop(average: str, members: int) -> None:
    logits_NMK, _ = reference.random_case(40, members, 7)
    expected = reference.ensemble_probabilities(logits_NMK.double().numpy(), average)
    result = combine(logits_NMK, average)
    assert result.dtype == torch.float64
    np.testing.assert_allclose(result.exp().numpy(), expected, rtol=1e-12)


def test_the_two_averages_by_hand() -> None:
    # Odds 9:1 and 1:1. Logits average to the geometric mean of the odds, 3:1; probabilities to (0.9 + 0.5) / 2.
    logits_NMK = torch.tensor([[[9.0, 1.0], [1.0, 1.0]]], dtype=torch.float64).log()
    assert combine(logits_NMK, "logits").exp()[0, 0] == pytest.approx(0.75)
    assert combine(logits_NMK, "probabilities").exp()[0, 0] == pytest.approx(0.7)


def test_combine_does_not_underflow_where_probabilities_would() -> None:
    logits_NMK = torch.tensor([[[0.0, -2000.0], [0.0, -3000.0]]])
    assert combine(logits_NMK, "logits")[0, 1] == -2500.0
    assert combine(logits_NMK, "probabilities")[0, 1] == pytest.approx(-2000.0 - np.log(2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_low_precision_logits_are_averaged_in_float64(dtype: torch.dtype) -> None:
    # In bfloat16 the mean of 256 and 258 is not representable between neighbours 256 and 258.
    logits_NMK = torch.tensor([[[256.0, 256.0], [258.0, 256.0]]], dtype=dtype)
    assert combine(logits_NMK).exp()[0, 0] == pytest.approx(1 / (1 + np.exp(-1.0)), rel=1e-12)


def test_concatenated_members_are_those_of_all_networks_in_order() -> None:
    first, labels_N = reference.random_case(30, 2, 5, seed=1)
    second, _ = reference.random_case(30, 3, 5, seed=2)
    joined = concatenate_members([first, second])
    expected = [
        reference.top_k(network[:, i].numpy(), labels_N.numpy(), 1)
        for network in (first, second)
        for i in range(network.shape[1])
    ]
    assert member_accuracies(joined, labels_N) == expected
    mean_NK = (first.double().sum(dim=1) + second.double().sum(dim=1)) / 5
    torch.testing.assert_close(combine(joined), mean_NK.log_softmax(dim=1))


def test_concatenating_names_the_network_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"networks\[1\] must have the 4 samples and 3 classes.*\[4, 2, 5\]"):
        concatenate_members([torch.zeros(4, 2, 3), torch.zeros(4, 2, 5)])
    with pytest.raises(ValueError, match="at least one network"):
        concatenate_members([])


@pytest.mark.parametrize("k", [1, 2, 5])
def test_top_k_accuracy_equals_sklearn(k: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    logits_NMK, labels_N = reference.random_case(300, 1, 9)
    scores_NK = logits_NMK[:, 0]
    expected = metrics.top_k_accuracy_score(labels_N.numpy(), scores_NK.numpy(), k=k, labels=np.arange(9))
    assert top_k_accuracy(scores_NK, labels_N, k) == pytest.approx(expected, abs=1e-15)


def test_top_k_with_fewer_classes_than_k_is_one() -> None:
    logits_NMK, labels_N = reference.random_case(20, 1, 3)
    assert top_k_accuracy(logits_NMK[:, 0], labels_N, 5) == 1.0


def test_a_constant_network_is_credited_with_one_class() -> None:
    labels_N = torch.tensor([0, 1, 2, 3, 0])
    assert top_k_accuracy(torch.zeros(5, 4), labels_N, 1) == 0.4
    assert top_k_accuracy(torch.zeros(5, 4), labels_N, 3) == 0.8


@settings(deadline=None, max_examples=40)
@given(
    scores=st.lists(st.lists(st.integers(-2, 2), min_size=4, max_size=4), min_size=1, max_size=12),
    k=st.integers(1, 6),
    data=st.data(),
)
def test_top_k_ranks_ties_like_the_loop(scores: list[list[int]], k: int, data: st.DataObject) -> None:
    labels = data.draw(st.lists(st.integers(0, 3), min_size=len(scores), max_size=len(scores)))
    scores_NK, labels_N = torch.tensor(scores, dtype=torch.float32), torch.tensor(labels)
    assert top_k_accuracy(scores_NK, labels_N, k) == reference.top_k(np.array(scores), np.array(labels), k)
    if k == 1:
        assert top_k_accuracy(scores_NK, labels_N) == float((scores_NK.argmax(1) == labels_N).double().mean())


@pytest.mark.parametrize(("k", "error"), [(0, ValueError), (-1, ValueError), (1.0, TypeError), (True, TypeError)])
def test_top_k_refuses_a_senseless_k(k: object, error: type[Exception]) -> None:
    with pytest.raises(error, match="k must be"):
        top_k_accuracy(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64), k)


def test_unknown_average_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"average must be one of logits, probabilities, got 'logit'; .*'logits'"):
        combine(torch.zeros(1, 1, 2), "logit")
