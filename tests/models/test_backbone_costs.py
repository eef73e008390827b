"""Parameter and multiply-add counts against METHODS sections 3 and 7, without allocating a weight."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mixfast.models import Core, build_backbone

IMAGE_CHANNELS = 3


def on_meta(name: str) -> Core:
    with torch.device("meta"):
        return build_backbone(name)


def count_parameters(core: Core, num_inputs: int, num_classes: int) -> int:
    """The core, plus a bias-free stem convolution and a biased linear head for each input."""
    stem = core.stem.channels * IMAGE_CHANNELS * core.stem.kernel_size**2
    head = num_classes * core.num_features + num_classes
    return sum(parameter.numel() for parameter in core.parameters()) + num_inputs * (stem + head)


@pytest.mark.parametrize(
    ("name", "num_classes", "vanilla", "two_inputs"),
    [
        ("wrn28-2", 100, 1479220, 1492552),
        ("wrn28-5", 100, 9161524, 9194056),
        ("wrn28-10", 100, 36536884, 36601416),
        ("preact-resnet18-1", 200, 11268616, 11372944),
        ("preact-resnet18-3", 200, 100537864, 100846992),
        # The usual ImageNet network (torchvision's resnet18) and, beside it, one more 7x7 stem and head.
        ("resnet18-1", 1000, 11689512, 11689512 + 64 * 3 * 49 + 513000),
    ],
)
def test_exact_parameter_counts(name: str, num_classes: int, vanilla: int, two_inputs: int) -> None:
    core = on_meta(name)
    assert count_parameters(core, 1, num_classes) == vanilla
    assert count_parameters(core, 2, num_classes) == two_inputs


@pytest.mark.parametrize(
    ("width", "vanilla", "two_inputs"),
    [
        (2, 1.48, 1.49),
        (3, 3.31, 3.33),
        (4, 5.87, 5.89),
        (5, 9.16, 9.19),
        (7, 17.92, 17.97),
        (10, 36.53, 36.60),
        (14, 71.55, 71.64),
    ],
)
def test_wrn28_counts_agree_with_the_printed_millions(width: int, vanilla: float, two_inputs: float) -> None:
    """Table A.17 rounds some entries and truncates others: each lies within one unit of its last digit."""
    core = on_meta(f"wrn28-{width}")
    assert abs(count_parameters(core, 1, 100) / 1e6 - vanilla) < 0.01
    assert abs(count_parameters(core, 2, 100) / 1e6 - two_inputs) < 0.01


def count_operations(module: nn.Module, x: Tensor) -> tuple[int, Tensor]:
    """Multiply-adds of convolutions and heads plus two for each normalised value, which gives the printed figures."""
    normalised = 0

    def count_norm(_: nn.Module, inputs: tuple[Tensor]) -> None:
        nonlocal normalised
        normalised += inputs[0].numel()

    hooks = [
        layer.register_forward_pre_hook(count_norm) for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)
    ]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        out = module(x)
    for hook in hooks:
        hook.remove()
    return counter.get_total_flops() // 2 + 2 * normalised, out


def test_wrn28_10_multiply_adds() -> None:
    """5.9565 G for the plain network, 5.9571 G for two stems and heads (thesis A.5.5), images of 32 x 32.

    Only with the stride on the second convolution: on the first, the core would cost 5.2 G.
    """
    core = on_meta("wrn28-10")
    with torch.device("meta"):
        stem = nn.Conv2d(IMAGE_CHANNELS, core.stem.channels, kernel_size=3, padding=1, bias=False)
        head = nn.Linear(core.num_features, 100)
        images = torch.empty(1, IMAGE_CHANNELS, 32, 32)
    stem_cost, raw = count_operations(stem, images)
    core_cost, features = count_operations(core, raw)
    head_cost, _ = count_operations(head, features.mean((2, 3)))
    # One unit of the last printed digit: the printed figures are truncated as often as rounded.
    assert abs((stem_cost + core_cost + head_cost) / 1e9 - 5.9565) < 1e-4
    assert abs((2 * stem_cost + core_cost + 2 * head_cost) / 1e9 - 5.9571) < 1e-4
