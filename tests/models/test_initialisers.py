"""First values of weights: their distributions, their sizes for each family, and that a generator fixes them."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import nn

from mixfast.models import Core, build_backbone
from mixfast.models.initialisers import small_normal_, truncated_he_normal_, truncated_normal_std

NAMES = ["wrn10-1", "preact-resnet18-1", "resnet18-1"]
MOST_VALUES = 100_000
"""As many values of a weight as the tests of distributions look at, which is plenty and quick."""


def assert_truncated_he_normal(sample: torch.Tensor, fan_in: int) -> None:
    """Kolmogorov-Smirnov against scipy's truncated normal, and the standard deviation after the cut."""
    std = math.sqrt(2 / fan_in)
    parent = std / stats.truncnorm(-2, 2).std()
    values = sample.detach().flatten()[:MOST_VALUES].double().numpy()
    assert abs(values).max() <= 2 * parent * (1 + 1e-6)
    assert values.std() == pytest.approx(std, rel=4 / math.sqrt(values.size))
    assert stats.kstest(values, stats.truncnorm(-2, 2, scale=parent).cdf).pvalue > 1e-3


@pytest.mark.parametrize("cut", [0.5, 1.0, 2.0, 3.0])
def test_truncated_std_agrees_with_scipy(cut: float) -> None:
    assert truncated_normal_std(cut) == pytest.approx(stats.truncnorm(-cut, cut).std(), rel=1e-12)


def test_truncated_std_at_two_is_the_published_constant() -> None:
    assert truncated_normal_std(2) == pytest.approx(0.8796, abs=5e-5)


@pytest.mark.parametrize("fan_in", [27, 640])
def test_truncated_he_normal(fan_in: int) -> None:
    weight = torch.empty(100, 200)
    assert truncated_he_normal_(weight, fan_in=fan_in, generator=torch.Generator().manual_seed(0)) is weight
    assert_truncated_he_normal(weight, fan_in)


@pytest.mark.parametrize("fan_in", [0, -3])
def test_fan_in_must_be_positive(fan_in: int) -> None:
    with pytest.raises(ValueError, match=f"fan_in: .* got {fan_in}"):
        truncated_he_normal_(torch.empty(2, 2), fan_in=fan_in)


def test_small_normal() -> None:
    values = small_normal_(torch.empty(100, 200), generator=torch.Generator().manual_seed(0)).double().flatten().numpy()
    assert stats.kstest(values, stats.norm(scale=0.01).cdf).pvalue > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_core_convolutions_and_norms(name: str) -> None:
    core = build_backbone(name)
    core.reset_parameters(torch.Generator().manual_seed(0))
    convolutions = [layer for layer in core.modules() if isinstance(layer, nn.Conv2d)]
    for layer in convolutions[1], convolutions[-1]:
        inputs = layer.in_channels * layer.kernel_size[0] * layer.kernel_size[1]
        assert_truncated_he_normal(layer.weight, inputs)
    for layer in core.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert (layer.weight == 1).all() and (layer.bias == 0).all()
            assert (layer.running_mean == 0).all() and (layer.running_var == 1).all()
            assert (layer.eps, layer.momentum) == (1e-5, 0.1)


def test_reset_depends_on_the_generator_alone() -> None:
    first, second = build_backbone("wrn10-1"), build_backbone("wrn10-1")
    second(torch.randn(2, second.stem.channels, 16, 16))  # moves the batch-norm statistics, which a reset must forget
    first.reset_parameters(torch.Generator().manual_seed(3))
    second.reset_parameters(torch.Generator().manual_seed(3))
    for (name, ours), theirs in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name


def encoder_of(core: Core, num_inputs: int) -> torch.Tensor:
    side = core.stem.kernel_size
    weight = torch.empty(num_inputs, core.stem.channels, 3, side, side)
    return core.init_encoder(weight, torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("name", "fan_in"), [("wrn10-1", 27), ("preact-resnet18-1", 27), ("resnet18-1", 147)])
def test_encoders_are_independent_draws(name: str, fan_in: int) -> None:
    weight = encoder_of(build_backbone(name), num_inputs=30)
    assert_truncated_he_normal(weight, fan_in)
    correlation = torch.corrcoef(weight.flatten(1))
    # 435 pairs of at least 432 values: independent draws stay below 5 standard errors.
    assert (correlation - torch.eye(30)).abs().max() < 5 / math.sqrt(weight[0].numel())


def test_heads_follow_the_family() -> None:
    generator = torch.Generator().manual_seed(2)
    wrn = build_backbone("wrn10-1")
    assert_truncated_he_normal(wrn.init_head(torch.empty(2, 100, wrn.num_features), generator), wrn.num_features)
    for name in ("preact-resnet18-1", "resnet18-1"):
        core = build_backbone(name)
        values = core.init_head(torch.empty(2, 200, core.num_features), generator).double().flatten().numpy()
        assert stats.kstest(values, stats.norm(scale=0.01).cdf).pvalue > 1e-3
