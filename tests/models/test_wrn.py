"""The strided convolution of WideResNet, and what its constructor refuses."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from mixfast.models import WideResNet
from mixfast.models.wrn import HalvingConv3x3


def same_padding(side: int) -> tuple[int, int]:
    """The rule "SAME" for kernel 3 and stride 2: as little as ceil(side / 2) outputs need, the larger half last."""
    outputs = -(-side // 2)
    total = max((outputs - 1) * 2 + 3 - side, 0)
    return total // 2, total - total // 2


@given(height=st.integers(1, 9), width=st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_halving_convolution_pads_like_same(height: int, width: int) -> None:
    conv = HalvingConv3x3(2, 3).double()
    x = torch.randn(2, 2, height, width, dtype=torch.float64)
    padded = F.pad(x, (*same_padding(width), *same_padding(height)))
    windows = padded.unfold(2, 3, 2).unfold(3, 3, 2)
    expected = torch.einsum("bchwij,ocij->bohw", windows, conv.weight)
    assert expected.shape[2:] == (-(-height // 2), -(-width // 2))
    torch.testing.assert_close(conv(x), expected, rtol=1e-12, atol=1e-12)


def test_odd_images_pass() -> None:
    features = WideResNet(10, 1)(torch.randn(2, 16, 15, 13))
    assert features.shape == (2, 64, 4, 4)
    assert torch.isfinite(features).all()


@pytest.mark.parametrize(("depth", "nearest"), [(27, 28), (4, 10), (0, 10), (-30, 10), (30, 28), (32, 34), (11, 10)])
def test_other_depths_are_refused_with_the_nearest(depth: int, nearest: int) -> None:
    with pytest.raises(ValueError, match=rf"depth: expected 6n \+ 4 .* got {depth}; the nearest is {nearest}$"):
        WideResNet(depth, 1)


def test_width_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="width: expected a positive integer, got 0"):
        WideResNet(28, 0)


@pytest.mark.parametrize("depth", [10, 16, 28])
def test_depth_counts_the_layers_on_the_longest_path(depth: int) -> None:
    """Two convolutions a block in three stages, and four more: the stem, the head, and by convention two shortcuts."""
    core = WideResNet(depth, 1)
    assert 2 * sum(len(stage) for stage in core.stages) + 4 == depth
