"""Every Triton kernel, compiled for cards that are not here, without spills."""

from __future__ import annotations

import importlib.util
import re

import pytest
import torch
from ahead_of_time import intermediate_code, spills

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


@pytest.mark.parametrize("size", [(2, 4), (5, 7), (32, 32)])
def test_places_are_not_packed(size):
    """ptxas of CUDA 12.8 computes ``add.s16x2`` a second time without its constant: the H200 read the pixels beside."""
    from mixfast_kernels._triton.aot import meta
    from mixfast_kernels._triton.mask_mix_encode import mask_mix_encode, mask_mix_encode_backward

    half = {"dtype": torch.float16}
    parameters = (meta(3, 16, **half), meta(16, *size, **half))
    tensors = (meta(4, 3, *size), meta(3, 16, 3, 3, 3, **half), meta(2, 3), meta(2, 3), None, None)
    arguments = (
        *tensors,
        meta(2, 3, dtype=torch.int64),
        *parameters,
        list(size),
        1,
        1,
        2.0,
        [0.3, 0.4, 0.5],
        [0.2, 0.3, 0.2],
    )

    def call():
        mask_mix_encode(*arguments)
        mask_mix_encode_backward(meta(2, 16, *size, **half, channels_last=True), *arguments, [True, False])

    code = intermediate_code(call, "sm_90")
    assert {"encode_kernel", "gradient_kernel", "image_gradient_kernel"} <= code.keys()
    assert not [name for name, ptx in code.items() if re.search(r"\.[su]16x2\b", ptx)]


@pytest.mark.long
@pytest.mark.parametrize("operator", OPERATORS)
def test_every_case_compiles_without_spills(operator):
    assert set(spills(operator).values()) == {0}
