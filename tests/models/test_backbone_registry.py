"""Names to backbones, and what wrong names are told."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from mixfast.models import PreActResNet18, ResNet18, Stem, WideResNet, backbone_names, build_backbone


@pytest.mark.parametrize(
    ("name", "family", "num_features"),
    [
        ("wrn28-10", WideResNet, 640),
        ("wrn16-3", WideResNet, 192),
        ("preact-resnet18-2", PreActResNet18, 1024),
        ("resnet18-5", ResNet18, 2560),
    ],
)
def test_names_build_their_family(name: str, family: type, num_features: int) -> None:
    with torch.device("meta"):
        core = build_backbone(name)
    assert type(core) is family
    assert core.num_features == num_features


def test_wrn_depth_sets_the_blocks() -> None:
    assert [len(stage) for stage in build_backbone("wrn16-1").stages] == [2, 2, 2]


def test_every_listed_example_builds() -> None:
    assert set(backbone_names()) == {"wrn{depth}-{width}", "preact-resnet18-{width}", "resnet18-{width}"}
    for example in backbone_names().values():
        with torch.device("meta"):
            build_backbone(example)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("wrn28_10", "wrn28-10"),
        ("WRN-28-37", "wrn28-37"),
        ("wrn28", "wrn28-"),
        ("wrn28-0", "wrn28-"),
        ("wrn28-010", "wrn28-10"),
        ("xwrn28-10", "wrn28-10"),
        ("preactresnet18-3", "preact-resnet18-3"),
        ("resnet-18-5", "resnet18-5"),
        ("", ""),
    ],
)
def test_unknown_names_are_told_what_is_valid(name: str, nearest: str) -> None:
    with pytest.raises(ValueError) as caught:
        build_backbone(name)
    message = str(caught.value)
    assert repr(name) in message and f"the nearest is '{nearest}" in message
    assert all(pattern in message for pattern in backbone_names())


def test_impossible_depth_names_backbone_and_nearest_depth() -> None:
    with pytest.raises(ValueError, match=r"backbone 'wrn27-10': depth: .* got 27; the nearest is 28"):
        build_backbone("wrn27-10")


@pytest.mark.parametrize("name", backbone_names().values())
@pytest.mark.parametrize("image_size", [(32, 32), (63, 40), (7, 9), (1, 1)])
def test_stem_grid_is_the_convolutions(name: str, image_size: tuple[int, int]) -> None:
    with torch.device("meta"):
        stem = build_backbone(name).stem
    weight = torch.zeros(1, 1, stem.kernel_size, stem.kernel_size)
    out = F.conv2d(torch.zeros(1, 1, *image_size), weight, stride=stem.stride, padding=stem.padding)
    assert stem.grid(image_size) == tuple(out.shape[2:])


def test_images_smaller_than_the_kernel_are_refused() -> None:
    with pytest.raises(ValueError, match=r"image_size: .* at least 5 pixels, got \(8, 4\)"):
        Stem(channels=1, kernel_size=7, stride=2, padding=1).grid((8, 4))
