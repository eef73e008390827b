"""validation_split: stratified, disjoint, seeded, with the documented counts."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mixfast.data import DataError, ImageSet, validation_split


def numbered_set(labels: list[int], classes: int) -> ImageSet:
    """Image i holds the number i in its two channels, so that an image can be told from its pixels."""
    number = torch.arange(len(labels))
    images_NHWC = torch.stack((number // 256, number % 256), dim=1).to(torch.uint8)[:, None, None, :]
    return ImageSet(
        images=images_NHWC.permute(0, 3, 1, 2),
        labels=torch.tensor(labels),
        classes=tuple(f"class{k}" for k in range(classes)),
        mean=(0.0, 0.0),
        std=(1.0, 1.0),
        name="numbered",
        split="train",
    )


def numbers(image_set: ImageSet) -> list[int]:
    return [int(image[0]) * 256 + int(image[1]) for image in image_set.images.flatten(1)]


@given(
    labels=st.lists(st.integers(0, 3), min_size=2, max_size=120),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**64 - 1),
)
def test_parts_are_disjoint_complete_ordered_and_stratified(labels: list[int], fraction: float, seed: int) -> None:
    image_set = numbered_set(labels, classes=4)
    sizes = [labels.count(k) for k in range(4)]
    expected = [max(0, min(math.floor(fraction * n + 0.5), n - 1)) for n in sizes]
    if sum(expected) == 0:
        with pytest.raises(DataError, match="leaves no validation image"):
            validation_split(image_set, fraction, seed)
        return
    train, validation = validation_split(image_set, fraction, seed)
    assert [validation.labels.tolist().count(k) for k in range(4)] == expected
    assert sorted(numbers(train) + numbers(validation)) == list(range(len(labels)))
    for part in (train, validation):
        assert numbers(part) == sorted(numbers(part))
        assert part.labels.tolist() == [labels[i] for i in numbers(part)]
    assert (train.split, validation.split) == ("train", "validation")


def test_the_seed_decides_and_nothing_else() -> None:
    image_set = numbered_set([0, 1] * 100, classes=2)
    first, again, other = (numbers(validation_split(image_set, 0.2, seed)[1]) for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_every_image_of_a_class_is_equally_likely_to_be_held_out() -> None:
    image_set = numbered_set([0] * 10, classes=1)
    held_out = torch.zeros(10)
    for seed in range(600):
        held_out[numbers(validation_split(image_set, 0.3, seed)[1])] += 1
    # binomial(600, 0.3): mean 180, deviation 11.2; five deviations
    assert (held_out - 180).abs().max() < 56


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 10])
def test_fraction_out_of_range(fraction: float) -> None:
    with pytest.raises(ValueError, match=f"fraction is {fraction}, expected a number between 0 and 1"):
        validation_split(numbered_set([0, 0], classes=1), fraction, 0)
