"""Metrics and analyses of predictions: pure functions of logits, labels and weights, without any training code."""

from __future__ import annotations

from mixfast.evaluation.accuracy import AVERAGES, combine, concatenate_members, member_accuracies, top_k_accuracy
from mixfast.evaluation.analysis import (
    ACTIVITY_THRESHOLDS,
    active_filters,
    classifier_feature_norms,
    classifier_sharing_rate,
    encoder_feature_norms,
    encoder_sharing_rate,
    feature_influence,
    sharing_rate,
)
from mixfast.evaluation.calibration import (
    NUM_BINS,
    ReliabilityBin,
    calibration_error,
    expected_calibration_error,
    reliability_table,
)
from mixfast.evaluation.diversity import agreement, ratio_error
from mixfast.evaluation.likelihood import (
    HIGHEST_TEMPERATURE,
    LOWEST_TEMPERATURE,
    CalibratedLikelihood,
    calibrated_nll,
    fit_temperature,
    negative_log_likelihood,
)
from mixfast.evaluation.report import Metrics, evaluate_logits

__all__ = [
    "ACTIVITY_THRESHOLDS",
    "AVERAGES",
    "HIGHEST_TEMPERATURE",
    "LOWEST_TEMPERATURE",
    "NUM_BINS",
    "CalibratedLikelihood",
    "Metrics",
    "ReliabilityBin",
    "active_filters",
    "agreement",
    "calibrated_nll",
    "calibration_error",
    "classifier_feature_norms",
    "classifier_sharing_rate",
    "combine",
    "concatenate_members",
    "encoder_feature_norms",
    "encoder_sharing_rate",
    "evaluate_logits",
    "expected_calibration_error",
    "feature_influence",
    "fit_temperature",
    "member_accuracies",
    "negative_log_likelihood",
    "ratio_error",
    "reliability_table",
    "sharing_rate",
    "top_k_accuracy",
]
