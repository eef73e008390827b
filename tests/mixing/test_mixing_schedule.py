"""Schedules against values computed by hand from the thesis's formulas."""

from __future__ import annotations

import pytest

from mixfast.mixing import patch_probability, unmix_fade


@pytest.mark.parametrize(
    ("epoch", "expected"), [(1, 0.5), (275, 0.5), (276, 0.5 * 24 / 25), (288, 0.24), (299, 0.02), (300, 0.0)]
)
def test_patch_probability_of_300_epochs(epoch, expected):
    assert patch_probability(0.5, epoch, 300) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("epochs", [1, 2, 11, 12, 13, 100, 300, 1200])
def test_patch_probability_follows_algorithm_a6(epochs):
    for epoch in range(1, epochs + 1):
        expected = 0.7 if epoch <= 11 / 12 * epochs else 0.7 * (epochs - epoch) / (epochs / 12)
        assert patch_probability(0.7, epoch, epochs) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("epoch", "fade_epochs", "expected"),
    [(1, 100, 0.01), (50, 100, 0.5), (100, 100, 1.0), (101, 100, 1.0), (300, 100, 1.0), (1, 0, 0.0), (300, 0, 0.0)],
)
def test_unmix_fade(epoch, fade_epochs, expected):
    assert unmix_fade(epoch, fade_epochs) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1.5, 1, 10), "probability must lie in 0..1, got 1.5"),
        ((0.5, 0, 10), r"epoch must lie in 1..10 \(epochs\), got 0"),
        ((0.5, 11, 10), r"epoch must lie in 1..10 \(epochs\), got 11"),
        ((0.5, 1, 0), "epochs must be at least 1, got 0"),
    ],
)
def test_bad_patch_schedules_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        patch_probability(*arguments)


@pytest.mark.parametrize(
    ("arguments", "message"), [((0, 10), "epoch must be at least 1"), ((1, -1), "fade_epochs must be at least 0")]
)
def test_bad_fades_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        unmix_fade(*arguments)
