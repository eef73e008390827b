"""The metrics once more, independently: plain loops over numpy float64, one sample at a time."""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor


def random_case(samples: int, members: int, classes: int, seed: int = 0, scale: float = 2.0) -> tuple[Tensor, Tensor]:
    """Logits [N, M, K] whose members share a signal that often, but not always, points at the label."""
    generator = torch.Generator().manual_seed(seed)
    labels_N = torch.randint(classes, (samples,), generator=generator)
    signal_NK = torch.nn.functional.one_hot(labels_N, classes) + torch.randn(samples, classes, generator=generator)
    noise_NMK = torch.randn(samples, members, classes, generator=generator)
    return scale * (signal_NK[:, None] + 0.7 * noise_NMK), labels_N


def softmax(row: np.ndarray) -> np.ndarray:
    exponentials = [math.exp(value - max(row)) for value in row]
    return np.array(exponentials) / math.fsum(exponentials)


def ensemble_probabilities(logits: np.ndarray, average: str) -> np.ndarray:
    rows = []
    for sample in logits:
        if average == "logits":
            rows.append(softmax(sum(member for member in sample) / len(sample)))
        else:
            rows.append(sum(softmax(member) for member in sample) / len(sample))
    return np.array(rows)


def nll(probabilities: np.ndarray, labels: np.ndarray) -> float:
    return -math.fsum(math.log(row[label]) for row, label in zip(probabilities, labels, strict=True)) / len(labels)


def nll_at(scores: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    losses = []
    for row, label in zip(scores / temperature, labels, strict=True):
        losses.append(max(row) + math.log(math.fsum(math.exp(value - max(row)) for value in row)) - row[label])
    return math.fsum(losses) / len(losses)


def best_temperature(scores: np.ndarray, labels: np.ndarray) -> float:
    """Brent's method over the logarithm of the temperature, which knows nothing of derivatives."""
    bracket = (math.log(1e-2), math.log(1e4))
    result = minimize_scalar(
        lambda log_t: nll_at(scores, labels, math.exp(log_t)), bounds=bracket, method="bounded", options={"xatol": 1e-9}
    )
    return math.exp(result.x)


def top_k(scores: np.ndarray, labels: np.ndarray, k: int) -> float:
    hits = 0
    for row, label in zip(scores, labels, strict=True):
        ranking = sorted(range(len(row)), key=lambda j: (-row[j], j))
        hits += int(label) in ranking[:k]
    return hits / len(labels)


def ece(probabilities: np.ndarray, labels: np.ndarray, bins: int) -> float:
    total = 0.0
    for i in range(bins):
        members = [n for n, row in enumerate(probabilities) if i / bins < max(row) <= (i + 1) / bins]
        if members:
            accuracy = sum(int(np.argmax(probabilities[n])) == labels[n] for n in members) / len(members)
            confidence = sum(max(probabilities[n]) for n in members) / len(members)
            total += len(members) / len(labels) * abs(accuracy - confidence)
    return total


def ratio_error(logits: np.ndarray, labels: np.ndarray) -> float:
    ratios = []
    for a, b in itertools.combinations(range(logits.shape[1]), 2):
        different = simultaneous = 0
        for sample, label in zip(logits, labels, strict=True):
            wrong_a, wrong_b = np.argmax(sample[a]) != label, np.argmax(sample[b]) != label
            different += wrong_a != wrong_b
            simultaneous += wrong_a and wrong_b
        ratios.append(different / simultaneous)
    return sum(ratios) / len(ratios)


def agreement(logits: np.ndarray) -> float:
    shares = []
    for a, b in itertools.combinations(range(logits.shape[1]), 2):
        shares.append(sum(np.argmax(sample[a]) == np.argmax(sample[b]) for sample in logits) / len(logits))
    return sum(shares) / len(shares)
