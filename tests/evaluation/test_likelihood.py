"""Negative log-likelihood, temperature and NLLc."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from mixfast.evaluation import (
    HIGHEST_TEMPERATURE,
    LOWEST_TEMPERATURE,
    calibrated_nll,
    fit_temperature,
    negative_log_likelihood,
)

from . import reference


def calibrated_case(samples: int, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Scores [N, K] and labels drawn from the very distribution that the scores predict."""
    generator = torch.Generator().manual_seed(seed)
    scores_NK = 2 * torch.randn(samples, classes, generator=generator, dtype=torch.float64)
    return scores_NK, torch.multinomial(scores_NK.softmax(dim=1), 1, generator=generator)[:, 0]


def test_nll_equals_the_loop() -> None:
    logits_NMK, labels_N = reference.random_case(200, 1, 6)
    probabilities = reference.ensemble_probabilities(logits_NMK.double().numpy(), "logits")
    expected = reference.nll(probabilities, labels_N.numpy())
    assert negative_log_likelihood(logits_NMK[:, 0], labels_N) == pytest.approx(expected, rel=1e-12)


def test_nll_equals_sklearn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    logits_NMK, labels_N = reference.random_case(200, 1, 6)
    probabilities = logits_NMK[:, 0].double().softmax(dim=1).numpy()
    expected = metrics.log_loss(labels_N.numpy(), probabilities, labels=np.arange(6))
    assert negative_log_likelihood(logits_NMK[:, 0], labels_N) == pytest.approx(expected, rel=1e-12)


def test_nll_is_the_same_for_logits_and_their_log_probabilities() -> None:
    logits_NMK, labels_N = reference.random_case(50, 1, 6)
    scores_NK = logits_NMK[:, 0].double()
    assert negative_log_likelihood(scores_NK.log_softmax(1), labels_N) == pytest.approx(
        negative_log_likelihood(scores_NK, labels_N), rel=1e-13
    )


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("scale", [0.3, 2.0, 30.0])
def test_temperature_equals_a_derivative_free_search(seed: int, scale: float) -> None:
    logits_NMK, labels_N = reference.random_case(60, 1, 4, seed=seed, scale=scale)
    scores, labels = logits_NMK[:, 0].double().numpy(), labels_N.numpy()
    fitted = fit_temperature(logits_NMK[:, 0], labels_N)
    # Brent's method sees only values: near the minimum it resolves the square root of the rounding error.
    assert fitted == pytest.approx(reference.best_temperature(scores, labels), rel=1e-5)
    best = reference.nll_at(scores, labels, fitted)
    assert best <= reference.nll_at(scores, labels, fitted * 1.001)
    assert best <= reference.nll_at(scores, labels, fitted / 1.001)


def test_temperature_by_hand() -> None:
    # Three of four samples are right at a margin of 1: the best probability is 3/4, so 1 / T = log 3.
    scores_NK = torch.tensor([[1.0, 0.0]] * 4)
    assert fit_temperature(scores_NK, torch.tensor([0, 0, 0, 1])) == pytest.approx(1 / math.log(3), rel=1e-8)


@settings(deadline=None, max_examples=15)
@given(scale=st.floats(0.2, 20), seed=st.integers(0, 1000))
def test_the_scale_of_calibrated_logits_is_recovered(scale: float, seed: int) -> None:
    scores_NK, labels_N = calibrated_case(4000, 5, seed)
    assert fit_temperature(scale * scores_NK, labels_N) == pytest.approx(scale, rel=0.15)


@settings(deadline=None, max_examples=30)
@given(log_scale=st.floats(-1.5, 3), seed=st.integers(0, 1000))
def test_temperature_is_proportional_to_the_logits(log_scale: float, seed: int) -> None:
    scores_NK, labels_N = calibrated_case(60, 4, seed)
    scale, unscaled = 10.0**log_scale, fit_temperature(scores_NK, labels_N)
    assume(min(unscaled, unscaled * scale) > LOWEST_TEMPERATURE)
    assume(max(unscaled, unscaled * scale) < HIGHEST_TEMPERATURE)
    assert fit_temperature(scale * scores_NK, labels_N) == pytest.approx(scale * unscaled, rel=1e-6)


@settings(deadline=None, max_examples=60)
@given(
    scores=st.lists(
        st.lists(st.floats(-1e3, 1e3, allow_subnormal=False), min_size=3, max_size=3), min_size=1, max_size=6
    ),
    data=st.data(),
)
def test_no_temperature_within_the_bounds_beats_the_fitted_one(scores: list[list[float]], data: st.DataObject) -> None:
    labels = data.draw(st.lists(st.integers(0, 2), min_size=len(scores), max_size=len(scores)))
    fitted = fit_temperature(torch.tensor(scores, dtype=torch.float64), torch.tensor(labels))
    assert LOWEST_TEMPERATURE * (1 - 1e-12) <= fitted <= HIGHEST_TEMPERATURE * (1 + 1e-12)
    best = reference.nll_at(np.array(scores), np.array(labels), fitted)
    for other in np.geomspace(LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE, 61):
        assert best <= reference.nll_at(np.array(scores), np.array(labels), float(other)) * (1 + 1e-9) + 1e-12


def test_perfectly_classified_data_stop_at_the_lower_bound() -> None:
    labels_N = torch.arange(10) % 3
    scores_NK = 4.0 * torch.nn.functional.one_hot(labels_N, 3)
    assert fit_temperature(scores_NK, labels_N) == pytest.approx(0.01, rel=1e-12)


def test_data_worse_than_chance_stop_at_the_upper_bound() -> None:
    scores_NK = torch.tensor([[4.0, 0.0, 0.0]] * 5)
    assert fit_temperature(scores_NK, torch.tensor([1, 2, 1, 2, 1])) == pytest.approx(1e4, rel=1e-12)


@pytest.mark.parametrize("value", [0.0, -7.25, 1e30])
def test_scores_without_preference_leave_the_temperature_at_one(value: float) -> None:
    scores_NK = torch.full((4, 3), value, dtype=torch.float64)
    assert fit_temperature(scores_NK, torch.tensor([0, 1, 2, 0])) == 1.0
    assert negative_log_likelihood(scores_NK, torch.tensor([0, 1, 2, 0])) == pytest.approx(math.log(3))


def test_a_single_class_costs_nothing() -> None:
    scores_NK, labels_N = torch.randn(4, 1), torch.zeros(4, dtype=torch.int64)
    assert fit_temperature(scores_NK, labels_N) == 1.0
    assert negative_log_likelihood(scores_NK, labels_N) == 0.0


@pytest.mark.parametrize("scale", [1e3, 1e6, 1e30, 1e90])
def test_huge_logits_stay_finite(scale: float) -> None:
    scores_NK, labels_N = calibrated_case(50, 4, 0)
    fitted = fit_temperature(scale * scores_NK, labels_N)
    expected = scale * fit_temperature(scores_NK, labels_N)
    assert fitted == pytest.approx(min(expected, HIGHEST_TEMPERATURE), rel=1e-6)
    result = calibrated_nll(scale * scores_NK, labels_N)
    assert result is not None
    assert math.isfinite(result.nll)


def test_wildly_mixed_magnitudes_still_reach_the_minimum() -> None:
    # Curvature at T = 1 comes from the small rows alone, the slope from the large one: plain Newton overshoots.
    scores_NK = torch.tensor([[0.0, 0.01], [0.0, 0.02], [900.0, 0.0], [1.0, 0.0], [300.0, 0.0]], dtype=torch.float64)
    labels_N = torch.tensor([1, 1, 1, 0, 0])
    fitted = fit_temperature(scores_NK, labels_N)
    assert fitted == pytest.approx(reference.best_temperature(scores_NK.numpy(), labels_N.numpy()), rel=1e-4)


@pytest.mark.parametrize("samples", [2, 3, 50, 51])
def test_nllc_equals_the_definition(samples: int) -> None:
    scores_NK, labels_N = calibrated_case(samples, 4, 11)
    scores_NK = 3 * scores_NK
    order = torch.randperm(samples, generator=torch.Generator().manual_seed(0)).numpy()
    first, second = order[: samples // 2], order[samples // 2 :]
    scores, labels = scores_NK.numpy(), labels_N.numpy()
    fitted = (fit_temperature(scores_NK[first], labels_N[first]), fit_temperature(scores_NK[second], labels_N[second]))
    expected = (
        reference.nll_at(scores[second], labels[second], fitted[0])
        + reference.nll_at(scores[first], labels[first], fitted[1])
    ) / 2
    result = calibrated_nll(scores_NK, labels_N)
    assert result is not None
    assert result.temperatures == fitted
    assert result.nll == pytest.approx(expected, rel=1e-12)


def test_nllc_undoes_a_wrong_scale() -> None:
    scores_NK, labels_N = calibrated_case(2000, 5, 3)
    true_nll = negative_log_likelihood(scores_NK, labels_N)
    result = calibrated_nll(7 * scores_NK, labels_N)
    assert result is not None
    assert negative_log_likelihood(7 * scores_NK, labels_N) > 2 * true_nll
    assert result.nll == pytest.approx(true_nll, rel=0.01)


def test_the_split_follows_its_seed_and_nothing_else() -> None:
    scores_NK, labels_N = calibrated_case(100, 4, 5)
    torch.manual_seed(1)
    default = calibrated_nll(scores_NK, labels_N)
    torch.manual_seed(2)
    assert calibrated_nll(scores_NK, labels_N) == default == calibrated_nll(scores_NK, labels_N, seed=0)
    assert calibrated_nll(scores_NK, labels_N, seed=1) != default


def test_one_sample_has_no_halves() -> None:
    assert calibrated_nll(torch.zeros(1, 3), torch.tensor([2])) is None
