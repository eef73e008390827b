"""Every Triton kernel, compiled for cards that are not here, without spills."""

from __future__ import annotations

import importlib.util

import pytest
from ahead_of_time import spills

OPERATORS = ("augment", "mask_mix_encode", "mixed_cross_entropy", "source_attribution", "unmix_pool")

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")


@pytest.mark.parametrize(
    ("operator", "name"),
    [
        ("augment", "bfloat16, CIFAR"),
        ("mask_mix_encode", "bfloat16, CIFAR stem"),
        ("mask_mix_encode", "bfloat16, ConViT patches"),
        ("mixed_cross_entropy", "bfloat16, ImageNet-100"),
    ],
)
def test_a_case_compiles_without_spills(operator, name):
    assert set(spills(operator, name).values()) == {0}


@pytest.mark.long
@pytest.mark.parametrize("operator", OPERATORS)
def test_every_case_compiles_without_spills(operator):
    assert set(spills(operator).values()) == {0}
