"""All metrics together: against the references, their invariances, and the errors for bad input."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mixfast.evaluation import (
    Metrics,
    calibrated_nll,
    calibration_error,
    combine,
    evaluate_logits,
    reliability_table,
)

from . import reference

# NLLc and its temperatures depend on which samples share a half, everything else only on the set.
ORDER_FREE = ("top1", "top5", "nll", "ece", "diversity", "agreement", "members")


def assert_close(value: object, expected: object, name: str, rel: float) -> None:
    """Like `==` with a tolerance, for the numbers, lists, bins and None of `Metrics.to_dict`."""
    if expected is None:
        assert value is None, name
    elif name == "calibration":
        for entry, expected_entry in zip(value, expected, strict=True):
            for key in expected_entry:
                assert_close(entry[key], expected_entry[key], key, rel)
    else:
        assert value == pytest.approx(expected, rel=rel), name


@pytest.mark.parametrize("average", ["logits", "probabilities"])
@pytest.mark.parametrize("members", [2, 4])
def test_every_field_equals_its_reference(average: str, members: int) -> None:
    logits_NMK, labels_N = reference.random_case(150, members, 8, seed=4)
    logits, labels = logits_NMK.double().numpy(), labels_N.numpy()
    probabilities = reference.ensemble_probabilities(logits, average)
    metrics = evaluate_logits(logits_NMK, labels_N, average)

    assert metrics.top1 == reference.top_k(probabilities, labels, 1)
    assert metrics.top5 == reference.top_k(probabilities, labels, 5)
    assert metrics.nll == pytest.approx(reference.nll(probabilities, labels), rel=1e-12)
    assert metrics.ece == pytest.approx(reference.ece(probabilities, labels, 15), rel=1e-10)
    assert metrics.calibration == tuple(reliability_table(combine(logits_NMK, average), labels_N))
    assert metrics.ece == calibration_error(metrics.calibration)
    assert metrics.diversity == pytest.approx(reference.ratio_error(logits, labels), rel=1e-12)
    assert metrics.agreement == pytest.approx(reference.agreement(logits), rel=1e-12)
    assert metrics.members == tuple(reference.top_k(logits[:, i], labels, 1) for i in range(members))

    order = torch.randperm(150, generator=torch.Generator().manual_seed(0)).numpy()
    halves = order[:75], order[75:]
    scores = np.log(probabilities)
    fitted = [reference.best_temperature(scores[half], labels[half]) for half in halves]
    assert metrics.temperature == pytest.approx(fitted, rel=1e-5)
    swapped = [reference.nll_at(scores[a], labels[a], t) for a, t in zip(halves[::-1], fitted, strict=True)]
    assert metrics.nll_calibrated == pytest.approx(sum(swapped) / 2, rel=1e-8)


def test_the_ensemble_is_calibrated_after_averaging() -> None:
    logits_NMK, labels_N = reference.random_case(100, 3, 5)
    metrics = evaluate_logits(logits_NMK, labels_N)
    calibrated = calibrated_nll(combine(logits_NMK), labels_N)
    assert (metrics.nll_calibrated, metrics.temperature) == (calibrated.nll, calibrated.temperatures)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10_000), members=st.integers(1, 4), average=st.sampled_from(["logits", "probabilities"]))
def test_the_order_of_the_samples_matters_to_the_split_only(seed: int, members: int, average: str) -> None:
    logits_NMK, labels_N = reference.random_case(30, members, 6, seed=seed)
    order_N = torch.randperm(30, generator=torch.Generator().manual_seed(seed))
    before = evaluate_logits(logits_NMK, labels_N, average).to_dict()
    after = evaluate_logits(logits_NMK[order_N], labels_N[order_N], average).to_dict()
    for name in ORDER_FREE:
        assert_close(after[name], before[name], name, rel=1e-12)


@settings(deadline=None, max_examples=20)
@given(
    seed=st.integers(0, 10_000), offset=st.integers(-1000, 1000), average=st.sampled_from(["logits", "probabilities"])
)
def test_a_constant_added_to_a_samples_logits_changes_nothing(seed: int, offset: int, average: str) -> None:
    logits_NMK, labels_N = reference.random_case(30, 2, 6, seed=seed)
    # Eighths and integers add without rounding, so that no tie and no bin boundary can tip over.
    logits_NMK = (logits_NMK.double() * 8).round() / 8
    offsets_N11 = offset + torch.arange(30, dtype=torch.float64)[:, None, None]
    before = evaluate_logits(logits_NMK, labels_N, average).to_dict()
    after = evaluate_logits(logits_NMK + offsets_N11, labels_N, average).to_dict()
    for name, value in before.items():
        assert_close(after[name], value, name, rel=1e-7)


def test_order_of_members_permutes_their_accuracies_only() -> None:
    logits_NMK, labels_N = reference.random_case(60, 3, 6)
    forward, backward = evaluate_logits(logits_NMK, labels_N), evaluate_logits(logits_NMK.flip(1), labels_N)
    assert backward.members == forward.members[::-1]
    assert backward.nll == pytest.approx(forward.nll, rel=1e-12)
    assert backward.diversity == pytest.approx(forward.diversity, rel=1e-12)


@pytest.mark.parametrize(("samples", "members", "classes"), [(1, 1, 1), (1, 2, 3), (2, 1, 2), (3, 2, 4), (30, 2, 10)])
def test_small_sets_give_strict_json_with_every_field(samples: int, members: int, classes: int) -> None:
    logits_NMK, labels_N = reference.random_case(samples, members, classes)
    metrics = evaluate_logits(logits_NMK, labels_N)
    restored = json.loads(json.dumps(metrics.to_dict(), allow_nan=False))
    assert list(restored) == [field.name for field in dataclasses.fields(Metrics)]
    assert restored["members"] == list(metrics.members)
    assert len(metrics.members) == members
    assert (restored["agreement"] is None) == (members == 1)
    assert (restored["nll_calibrated"] is None) == (restored["temperature"] is None) == (samples == 1)
    if members == 1:
        assert restored["diversity"] is None
    if classes <= 5:
        assert restored["top5"] == 1.0


def test_perfect_and_huge_logits_stay_json_safe() -> None:
    labels_N = torch.arange(12) % 4
    perfect_NMK = (6.0e4 * torch.nn.functional.one_hot(labels_N, 4)).half()[:, None].repeat(1, 2, 1)
    for labels in (labels_N, (labels_N + 1) % 4):
        json.dumps(evaluate_logits(perfect_NMK, labels).to_dict(), allow_nan=False)
    perfect = evaluate_logits(perfect_NMK, labels_N)
    assert (perfect.top1, perfect.nll, perfect.nll_calibrated, perfect.diversity) == (1.0, 0.0, 0.0, None)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_floating_dtype_scores_as_its_float64_values(dtype: torch.dtype) -> None:
    logits_NMK, labels_N = reference.random_case(50, 2, 6)
    rounded_NMK = logits_NMK.to(dtype)
    assert evaluate_logits(rounded_NMK, labels_N.int()) == evaluate_logits(rounded_NMK.double(), labels_N)


def test_inputs_that_require_gradients_or_are_strided_are_fine_and_left_alone() -> None:
    logits_NMK, labels_N = reference.random_case(40, 2, 6)
    strided_NMK = logits_NMK.permute(2, 0, 1).contiguous().permute(1, 2, 0).requires_grad_()
    copy_NMK = strided_NMK.detach().clone()
    assert evaluate_logits(strided_NMK, labels_N) == evaluate_logits(logits_NMK, labels_N)
    assert torch.equal(strided_NMK, copy_NMK)
    assert strided_NMK.requires_grad


def test_metrics_cannot_be_changed() -> None:
    logits_NMK, labels_N = reference.random_case(10, 2, 6)
    with pytest.raises(dataclasses.FrozenInstanceError):
        evaluate_logits(logits_NMK, labels_N).top1 = 1.0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_logits_that_are_not_finite_are_located(value: float) -> None:
    logits_NMK, labels_N = reference.random_case(6, 2, 4)
    logits_NMK[3, 1, 2] = value
    with pytest.raises(ValueError, match=rf"logits must be finite.*got {value} at \[N, M, K\] = \[3, 1, 2\] \(1 such"):
        evaluate_logits(logits_NMK, labels_N)


def test_logits_too_large_for_float64_arithmetic_are_refused() -> None:
    with pytest.raises(ValueError, match=r"at most 1e\+100 in magnitude, got -1e\+200"):
        evaluate_logits(torch.tensor([[[1.0, -1e200]]], dtype=torch.float64), torch.tensor([0]))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 1, 4]), r"labels must lie in 0\.\.3 .* got 4 at sample 2"),
        (torch.tensor([0, -1, 4]), r"labels must lie in 0\.\.3 .* got -1 at sample 1"),
        (torch.tensor([0, 1]), r"labels must have one entry per sample, shape \[3\], got \[2\]"),
        (torch.zeros(3, 1, dtype=torch.int64), r"shape \[3\], got \[3, 1\]"),
    ],
)
def test_labels_that_do_not_fit_are_named(labels: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate_logits(torch.zeros(3, 2, 4), labels)


@pytest.mark.parametrize("labels", [torch.zeros(3), torch.zeros(3, dtype=torch.bool), [0, 1, 2]])
def test_labels_that_are_no_integers_are_named(labels: object) -> None:
    with pytest.raises(TypeError, match="labels must"):
        evaluate_logits(torch.zeros(3, 2, 4), labels)


@pytest.mark.parametrize(
    ("logits", "error", "message"),
    [
        (torch.zeros(0, 2, 4), ValueError, r"logits must hold at least one .* \[0, 2, 4\]"),
        (torch.zeros(3, 0, 4), ValueError, r"\[3, 0, 4\]"),
        (torch.zeros(3, 2, 0), ValueError, r"\[3, 2, 0\]"),
        (torch.zeros(3, 4), ValueError, r"logits must have shape \[N, M, K\], got \[3, 4\]"),
        (torch.zeros(3, 2, 4, dtype=torch.int64), TypeError, "logits must be a floating tensor.*torch.int64"),
        (np.zeros((3, 2, 4)), TypeError, "logits must be a torch.Tensor.*ndarray"),
    ],
)
def test_logits_that_do_not_fit_are_named(logits: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        evaluate_logits(logits, torch.zeros(3, dtype=torch.int64))
