"""Published names, out and back in, through a stand-in for the network that the methods build around a core."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixfast.models import Core, build_backbone, load_mixmo_state_dict, mixmo_state_dict

State = dict[str, Tensor]


class StackedConvolution(nn.Module):
    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(shape))


class StackedLinear(nn.Module):
    def __init__(self, num_inputs: int, num_classes: int, num_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_inputs, num_classes, num_features))
        self.bias = nn.Parameter(torch.randn(num_inputs, num_classes))


class Network(nn.Module):
    """Encoders, core and heads, named as the loader's contract says."""

    def __init__(self, core: Core, num_inputs: int, num_classes: int = 5) -> None:
        super().__init__()
        side = core.stem.kernel_size
        self.encoder = StackedConvolution((num_inputs, core.stem.channels, 3, side, side))
        self.core = core
        self.heads = StackedLinear(num_inputs, num_classes, core.num_features)

    def forward(self, images: Tensor) -> Tensor:
        """The sum of all encoders' outputs through the core and every head: logits [B, M, K]."""
        stem = self.core.stem
        raw = sum(F.conv2d(images, weight, stride=stem.stride, padding=stem.padding) for weight in self.encoder.weight)
        features = self.core(raw).mean((2, 3))
        return torch.einsum("bf,mkf->bmk", features, self.heads.weight) + self.heads.bias


def network(name: str = "wrn10-1", num_inputs: int = 2, seed: int = 0) -> Network:
    torch.manual_seed(seed)
    return Network(build_backbone(name), num_inputs)


def independent(state: State) -> State:
    return {name: value.clone() for name, value in state.items()}


@pytest.mark.parametrize(
    ("name", "num_inputs"), [("wrn10-1", 1), ("wrn10-1", 3), ("preact-resnet18-1", 2), ("resnet18-1", 1)]
)
def test_round_trip_restores_every_value(name: str, num_inputs: int) -> None:
    source, target = network(name, num_inputs, seed=0), network(name, num_inputs, seed=1)
    source(torch.randn(2, 3, 32, 32))  # moves the batch-norm statistics off their first values
    load_mixmo_state_dict(target, independent(mixmo_state_dict(source)))
    for (entry, ours), theirs in zip(target.state_dict().items(), source.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), entry


def test_names_of_a_two_input_wrn() -> None:
    """Every name of a published WRN-10-1 with two inputs, spelt out from METHODS section 7."""
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected = {"list_conv1.0.weight", "list_conv1.1.weight", *(f"bn1.{entry}" for entry in norm)}
    expected |= {f"list_fc.{i}.{entry}" for i in (0, 1) for entry in ("weight", "bias")}
    for layer in (1, 2, 3):
        expected |= {f"layer{layer}.0.{conv}.weight" for conv in ("conv1", "conv2")}
        expected |= {f"layer{layer}.0.{bn}.{entry}" for bn in ("bn1", "bn2") for entry in norm}
    expected |= {"layer2.0.shortcut.0.weight", "layer3.0.shortcut.0.weight"}
    assert set(mixmo_state_dict(network())) == expected


def test_names_of_a_plain_preact_resnet() -> None:
    names = set(mixmo_state_dict(network("preact-resnet18-1", num_inputs=1)))
    assert {"conv1.weight", "fc.weight", "fc.bias", "layer4.1.bn2.running_var", "layer2.0.shortcut.0.weight"} <= names
    assert not any(name.startswith(("list_", "bn1.", "layer5", "layer1.0.shortcut")) for name in names)


def test_each_input_gets_its_own_encoder_and_head() -> None:
    model = network(num_inputs=3)
    state = mixmo_state_dict(model)
    for i in range(3):
        assert torch.equal(state[f"list_conv1.{i}.weight"], model.encoder.weight[i])
        assert torch.equal(state[f"list_fc.{i}.weight"], model.heads.weight[i])
        assert torch.equal(state[f"list_fc.{i}.bias"], model.heads.bias[i])


def test_loaded_network_predicts_the_same() -> None:
    source, target = network(seed=0).eval(), network(seed=1).eval()
    images = torch.randn(2, 3, 16, 16)
    assert not torch.allclose(source(images), target(images))
    load_mixmo_state_dict(target, independent(mixmo_state_dict(source)))
    assert torch.equal(source(images), target(images))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_wrapper_prefixes_are_accepted(prefix: str) -> None:
    source, target = network(seed=0), network(seed=1)
    load_mixmo_state_dict(target, {prefix + name: value for name, value in mixmo_state_dict(source).items()})
    assert torch.equal(target.encoder.weight, source.encoder.weight)


def test_compiled_network_is_read_and_loaded() -> None:
    source, target = network(seed=0), network(seed=1)
    load_mixmo_state_dict(torch.compile(target), mixmo_state_dict(torch.compile(source)))
    assert torch.equal(target.heads.weight, source.heads.weight)


def test_values_are_cast_to_the_models_types() -> None:
    source, target = network(seed=0).double(), network(seed=1)
    load_mixmo_state_dict(target, mixmo_state_dict(source))
    assert target.encoder.weight.dtype == torch.float32
    assert torch.equal(target.encoder.weight, source.encoder.weight.float())


def without(state: State, name: str) -> State:
    return {key: value for key, value in state.items() if key != name}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda s: without(s, "layer2.0.bn1.bias"), r"missing: layer2\.0\.bn1\.bias$"),
        (lambda s: s | {"layer2.0.extra": torch.zeros(1)}, r"unexpected: layer2\.0\.extra$"),
        (
            lambda s: s | {"list_fc.1.bias": torch.zeros(7)},
            r"wrongly shaped: list_fc\.1\.bias \(expected shape \[5\], got \[7\]\)$",
        ),
        (lambda s: s | {"bn1.weight": [1.0]}, r"wrongly shaped: bn1\.weight \(expected shape \[64\], got list\)$"),
        (lambda s: without(s, "list_conv1.0.weight") | {"conv1.weight": s["list_conv1.0.weight"]}, "unexpected: conv1"),
        (lambda s: s | {"module.bn1.weight": torch.zeros(64)}, r"unexpected: module\.bn1\.weight$"),
        (lambda s: {"state_dict": s}, r"missing: list_conv1.0.weight.* more; unexpected: state_dict$"),
        (lambda s: {}, "missing: list_conv1.0.weight, .* and [0-9]+ more$"),
    ],
    ids=["missing", "unexpected", "shape", "not a tensor", "plain encoder", "half prefixed", "nested", "empty"],
)
def test_what_does_not_fit_is_named_and_changes_nothing(change: Callable[[State], dict], complaint: str) -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    wrong = change(independent(mixmo_state_dict(network(seed=1))))
    with pytest.raises(ValueError, match=complaint):
        load_mixmo_state_dict(model, wrong)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_all_kinds_of_misfit_are_reported_together() -> None:
    state = without(mixmo_state_dict(network()), "bn1.bias") | {"x": torch.zeros(1), "bn1.weight": torch.zeros(3)}
    with pytest.raises(ValueError, match=r"missing: bn1\.bias; unexpected: x; wrongly shaped: bn1\.weight"):
        load_mixmo_state_dict(network(), state)


def test_model_with_an_unknown_entry_is_refused() -> None:
    model = network()
    model.register_buffer("temperature", torch.ones(()))
    with pytest.raises(ValueError, match="'temperature' has no published name"):
        mixmo_state_dict(model)
