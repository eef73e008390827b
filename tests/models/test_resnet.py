"""The ResNet-18 core against torchvision's resnet18 with the same weights."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor, nn

from mixfast.models import ResNet18


def torchvision_name(name: str) -> str:
    stage, _, rest = name.removeprefix("stages.").partition(".")
    if name.startswith("norm."):
        return name.replace("norm", "bn1")
    return f"layer{int(stage) + 1}.{rest}".replace("shortcut", "downsample")


def torchvision_features(model: nn.Module, raw: Tensor) -> Tensor:
    """From the raw stem output up to, and without, the mean pool."""
    x = model.maxpool(model.relu(model.bn1(raw)))
    return model.layer4(model.layer3(model.layer2(model.layer1(x))))


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_core_equals_torchvision(training: bool) -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18(weights=None).double().train(training)
    ours = ResNet18(1).double().train(training)
    with torch.no_grad():
        for module in theirs.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(std=0.3)
                module.running_mean.normal_(std=0.3)
                module.running_var.uniform_(0.5, 1.5)
    source = theirs.state_dict()
    ours.load_state_dict({name: source[torchvision_name(name)] for name in ours.state_dict()})
    assert len(ours.state_dict()) + 3 == len(source)  # torchvision's stem, and its head's weight and bias

    images = torch.randn(2, 3, 64, 48, dtype=torch.float64)
    stem = ours.stem
    raw = nn.functional.conv2d(images, theirs.conv1.weight.detach(), stride=stem.stride, padding=stem.padding)
    assert theirs.conv1.weight.shape == (stem.channels, 3, stem.kernel_size, stem.kernel_size)
    torch.testing.assert_close(raw, theirs.conv1(images), rtol=0, atol=0)

    features, expected = ours(raw), torchvision_features(theirs, raw)
    torch.testing.assert_close(features, expected, rtol=1e-10, atol=1e-10)

    upstream = torch.randn_like(features)
    features.backward(upstream)
    expected.backward(upstream)
    their_gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, their_gradients[torchvision_name(name)], rtol=1e-9, atol=1e-9)


def test_width_multiplies_the_stem_too() -> None:
    with torch.device("meta"):
        core = ResNet18(5)
    assert core.stem.channels == core.norm.num_features == 320
    assert [stage[-1].conv2.out_channels for stage in core.stages] == [320, 640, 1280, 2560]
    assert core.num_features == 2560
