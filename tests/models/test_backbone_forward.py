"""The WideResNet and PreActResNet cores against a functional forward written from METHODS section 7, in float64."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mixfast.models import Core, PreActResNet18, WideResNet

State = dict[str, Tensor]


def published_name(name: str) -> str:
    """stages.0.1.conv1.weight is layer1.1.conv1.weight; norm.weight is bn1.weight."""
    name = re.sub(r"^stages\.(\d+)\.", lambda stage: f"layer{int(stage[1]) + 1}.", name)
    return re.sub(r"^norm\.", "bn1.", name)


def published_state(core: Core) -> State:
    """Independent copies of the core's tensors under the published names; the trainable ones ask for gradients."""
    trainable = {name for name, _ in core.named_parameters()}
    state = {}
    for name, value in core.state_dict().items():
        state[published_name(name)] = value.clone().requires_grad_(name in trainable)
    return state


def norm_relu(state: State, name: str, x: Tensor, training: bool) -> Tensor:
    mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    return F.relu(F.batch_norm(x, mean, var, weight, bias, training=training, momentum=0.1, eps=1e-5))


def wide_block(state: State, name: str, x: Tensor, stride: int, training: bool) -> Tensor:
    out = F.conv2d(norm_relu(state, f"{name}.bn1", x, training), state[f"{name}.conv1.weight"], padding=1)
    out = norm_relu(state, f"{name}.bn2", out, training)
    if stride == 1:
        out = F.conv2d(out, state[f"{name}.conv2.weight"], padding=1)
    else:
        out = F.conv2d(F.pad(out, (0, 1, 0, 1)), state[f"{name}.conv2.weight"], stride=2)
    shortcut = state.get(f"{name}.shortcut.0.weight")
    return out + (x if shortcut is None else F.conv2d(x, shortcut, stride=stride))


def preact_block(state: State, name: str, x: Tensor, stride: int, training: bool) -> Tensor:
    activated = norm_relu(state, f"{name}.bn1", x, training)
    out = F.conv2d(activated, state[f"{name}.conv1.weight"], stride=stride, padding=1)
    out = F.conv2d(norm_relu(state, f"{name}.bn2", out, training), state[f"{name}.conv2.weight"], padding=1)
    shortcut = state.get(f"{name}.shortcut.0.weight")
    return out + (x if shortcut is None else F.conv2d(activated, shortcut, stride=stride))


def reference_forward(state: State, x: Tensor, training: bool, block: Callable[..., Tensor]) -> Tensor:
    """Walks layer1, layer2, ... of a published state from the raw stem output to the features before pooling."""
    layer = 1
    while f"layer{layer}.0.conv1.weight" in state:
        index = 0
        while f"layer{layer}.{index}.conv1.weight" in state:
            stride = 2 if layer > 1 and index == 0 else 1
            x = block(state, f"layer{layer}.{index}", x, stride, training)
            index += 1
        layer += 1
    return norm_relu(state, "bn1", x, training) if "bn1.weight" in state else x


def with_random_norms(core: Core) -> Core:
    """Batch norms that are anything but the identity, so that each one's place and parameters show."""
    with torch.no_grad():
        for name, value in core.state_dict().items():
            if re.search(r"(bn\d|norm)\.(weight|running_var)$", name):
                value.uniform_(0.5, 1.5)
            elif re.search(r"(bn\d|norm)\.(bias|running_mean)$", name):
                value.normal_(std=0.3)
    return core


CASES = [
    pytest.param(lambda: WideResNet(10, 1), wide_block, id="wrn10-1: identity shortcut in the first stage"),
    pytest.param(lambda: WideResNet(16, 2), wide_block, id="wrn16-2: projection in the first stage"),
    pytest.param(lambda: PreActResNet18(1), preact_block, id="preact-resnet18-1"),
]


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(("build", "block"), CASES)
def test_core_equals_the_functional_forward(
    build: Callable[[], Core], block: Callable[..., Tensor], training: bool
) -> None:
    torch.manual_seed(0)
    core = with_random_norms(build().double()).train(training)
    state = published_state(core)
    x = torch.randn(3, core.stem.channels, 16, 12, dtype=torch.float64, requires_grad=True)
    x_reference = x.detach().clone().requires_grad_()

    features = core(x)
    expected = reference_forward(state, x_reference, training, block)
    torch.testing.assert_close(features, expected, rtol=1e-10, atol=1e-10)

    upstream = torch.randn_like(features)
    features.backward(upstream)
    expected.backward(upstream)
    torch.testing.assert_close(x.grad, x_reference.grad, rtol=1e-9, atol=1e-9)
    gradients = {name: value.grad for name, value in state.items() if value.requires_grad}
    for name, parameter in core.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients.pop(published_name(name)), rtol=1e-9, atol=1e-9)
    assert not gradients

    after = published_state(core)
    for name in (name for name in state if "running" in name):
        torch.testing.assert_close(after[name], state[name], rtol=1e-10, atol=1e-10)


def test_stages_run_by_hand_equal_forward() -> None:
    """What Manifold MixUp relies on."""
    torch.manual_seed(0)
    for core in (WideResNet(10, 1), PreActResNet18(1)):
        core.eval()
        x = torch.randn(2, core.stem.channels, 8, 8)
        by_hand = core.entry(x)
        for stage in core.stages:
            by_hand = stage(by_hand)
        assert torch.equal(core.exit(by_hand), core(x))


def test_preact_resnet_features_are_not_rectified() -> None:
    torch.manual_seed(0)
    features = PreActResNet18(1).eval()(torch.randn(2, 64, 16, 16))
    assert (features < 0).any()


@pytest.mark.parametrize("core", [WideResNet(10, 1), PreActResNet18(1)], ids=["wrn", "preact"])
def test_wrong_stem_output_is_refused(core: Core) -> None:
    with pytest.raises(ValueError, match=rf"x: expected stem output \[B, {core.stem.channels}, h, w\].*\(2, 5, 8, 8\)"):
        core(torch.zeros(2, 5, 8, 8))
    with pytest.raises(ValueError, match="x: expected"):
        core(torch.zeros(core.stem.channels, 8, 8))
