"""Names to backbones, and what wrong names are told."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from mixfast.models import (
    Core,
    PreActResNet18,
    ResNet18,
    Stem,
    TokenCore,
    WideResNet,
    backbone_names,
    build_backbone,
)

CONVOLUTIONS = ("wrn28-10", "preact-resnet18-2", "resnet18-5")
CAITS = ("cait-xxs24", "cait-xxs36", "cait-xs24", "cait-s24", "cait-s36", "cait-m36", "cait-m48")
TRANSFORMERS = ("convit", "convit384-5", *CAITS)


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
    patterns = {"wrn{depth}-{width}", "preact-resnet18-{width}", "resnet18-{width}", "convit", "convit{width}-{depth}"}
    assert set(backbone_names()) == patterns | set(CAITS)
    assert set(backbone_names().values()) == {*CONVOLUTIONS, *TRANSFORMERS}
    for example in CONVOLUTIONS:
        with torch.device("meta"):
            assert isinstance(build_backbone(example), Core)
    for example in TRANSFORMERS:
        with torch.device("meta"):
            assert isinstance(build_backbone(example, image_size=32), TokenCore)


def test_convit_names_give_width_depth_and_heads() -> None:
    core = build_backbone("convit96-3", image_size=8)
    assert (core.num_features, len(core.blocks), core.blocks[0].attention.heads) == (96, 3, 3)
    with torch.device("meta"):
        short, long = (build_backbone(name, image_size=32) for name in ("convit", "convit384-5"))
    assert str(short) == str(long)


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("argument", ["image_size", "patch_size", "drop_path"])
def test_networks_of_convolutions_refuse_what_transformers_take(name: str, argument: str) -> None:
    with pytest.raises(ValueError, match=rf"backbone '{name}': {argument}: only vision transformers take it.*got 0"):
        build_backbone(name, **{argument: 0})


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers_need_the_size_of_images(name: str) -> None:
    with pytest.raises(ValueError, match=rf"backbone '{name}': image_size: a vision transformer needs"):
        build_backbone(name, patch_size=4)


def test_impossible_transformers_are_named() -> None:
    with pytest.raises(
        ValueError, match="'convit400-5': width: expected a multiple of 32, got 400; the nearest is 384"
    ):
        build_backbone("convit400-5", image_size=32)
    with pytest.raises(ValueError, match="'convit': image_size: expected sides that the patch size 4 divides"):
        build_backbone("convit", image_size=30)
    with pytest.raises(ValueError, match="'cait-xs24': drop_path: .* got 1.0"):
        build_backbone("cait-xs24", image_size=32, drop_path=1.0)


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
        ("ConViT", "convit"),
        ("convit-384-7", "convit384-7"),
        ("convit400_5", "convit"),
        ("cait_xs24", "cait-xs24"),
        ("cait-xxs-36", "cait-xxs36"),
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


@pytest.mark.parametrize("name", CONVOLUTIONS)
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
