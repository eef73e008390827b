"""RandAugment against torchvision's: every operation at every magnitude, whole chains, and how they are drawn."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from scipy import stats
from test_autoaugment import BLENDS, THEIR_NAME, assert_pixels, random_images
from torch import Tensor
from torchvision.transforms import v2

from mixfast.data.policies import SIGNED
from mixfast.data.policy_operations import Operation
from mixfast.data.randaugment import CHOICES, RANGED, STEPS, RandAugment

CPU = torch.device("cpu")
TORCHVISION = v2.RandAugment()


def torchvision_operation(image: Tensor, operation: Operation) -> Tensor:
    """By torchvision's own transform, at the magnitude that it gives that step."""
    name = THEIR_NAME.get(operation.name, "Identity")
    magnitudes_of, signed = TORCHVISION._AUGMENTATION_SPACE[name]
    assert signed == (operation.name in SIGNED)
    magnitudes = magnitudes_of(STEPS, *image.shape[-2:])
    magnitude = 0.0 if magnitudes is None else operation.sign * float(magnitudes[operation.magnitude])
    return TORCHVISION._apply_image_or_video_transform(
        image, name, magnitude, interpolation=TORCHVISION.interpolation, fill=TORCHVISION._fill
    )


def test_the_choices_are_torchvisions() -> None:
    assert {THEIR_NAME.get(name, "Identity") for name in CHOICES} == set(TORCHVISION._AUGMENTATION_SPACE)
    assert len(CHOICES) == len(TORCHVISION._AUGMENTATION_SPACE) and STEPS == TORCHVISION.num_magnitude_bins
    with_range = {name for name, (of, _) in TORCHVISION._AUGMENTATION_SPACE.items() if of(STEPS, 8, 8) is not None}
    assert {THEIR_NAME[name] for name in RANGED} == with_range


@pytest.mark.parametrize("magnitude", [0, 4, 9, 17, 30])
def test_every_operation_equals_torchvisions(magnitude: int) -> None:
    for shape in ((3, 32, 32), (1, 33, 20)):
        augment, images = RandAugment(1, magnitude, shape[1:], CPU), random_images(12, *shape)
        for code, operation in enumerate(augment.operations):
            expected = torch.stack([torchvision_operation(image, operation) for image in images])
            assert_pixels(augment.apply(images, np.full((1, 12), code)), expected, operation.name in BLENDS)


def test_chains_are_done_in_order() -> None:
    augment, images = RandAugment(3, 12, (16, 24), CPU), random_images(40, 3, 16, 24)
    codes = augment.draw(40, np.random.default_rng(3))
    assert codes.shape == (3, 40)
    for place, image in enumerate(augment(images, host_rng=np.random.default_rng(3))):
        operations = [augment.operations[code] for code in codes[:, place]]
        if not BLENDS & {operation.name for operation in operations}:  # one grey level may become many
            expected = images[place]
            for operation in operations:
                expected = torchvision_operation(expected, operation)
            assert torch.equal(image, expected)


def test_choices_and_directions_are_equally_likely() -> None:
    augment = RandAugment(2, 9, (8, 8), CPU)
    drawn = [augment.operations[code] for code in augment.draw(20_000, np.random.default_rng(0)).flatten()]
    names = Counter(operation.name for operation in drawn)
    assert names.keys() == set(CHOICES) and stats.chisquare(list(names.values())).pvalue > 0.001
    signs = Counter(operation.sign for operation in drawn if operation.name == "rotate")
    assert stats.binomtest(signs[1], signs.total()).pvalue > 0.001


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 9, (8, 8)), "count must be at least 1, got 0"),
        ((2, 31, (8, 8)), "magnitude must be from 0 to 30, got 31"),
        ((2, 9, (8, 0)), "size must be"),
    ],
)
def test_wrong_numbers_are_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RandAugment(*arguments, CPU)
