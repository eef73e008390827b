"""timm's CaiT as an oracle: its weights load under the documented names and give its outputs, and ours load into it."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import timm
import torch
from small_cores import randomised, small_core
from torch import Tensor, nn
from torch.nn import functional as F

from mixfast.models import TokenCore, build_backbone, load_timm_state_dict, timm_state_dict

CLASSES = 7


class Stacked(nn.Module):
    """`weight` and `bias` with a leading M."""

    def __init__(self, count: int, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(count, *shape))
        self.bias = nn.Parameter(torch.randn(count, shape[0]))


class Network(nn.Module):
    """What the methods build around a core: `encoder`, `core` and `heads`, here for one input."""

    def __init__(self, core: TokenCore, num_inputs: int = 1) -> None:
        super().__init__()
        self.encoder = Stacked(num_inputs, core.num_features, 3, core.patch_size, core.patch_size)
        self.core = core
        self.heads = Stacked(num_inputs, CLASSES, core.num_features)

    def tokens(self, images: Tensor) -> Tensor:
        encoded = F.conv2d(images, self.encoder.weight[0], self.encoder.bias[0], stride=self.core.patch_size)
        return (encoded + self.core.position).flatten(2).transpose(1, 2)

    def forward(self, images: Tensor) -> Tensor:
        return F.linear(self.core(self.tokens(images))[:, 0], self.heads.weight[0], self.heads.bias[0])


def theirs_and_ours(name: str, image_size: int, patch_size: int) -> tuple[nn.Module, Network]:
    """timm's model with every parameter random, and a network of ours that has loaded its state."""
    torch.manual_seed(0)
    timm_name = {"cait-xxs24": "cait_xxs24_224", "cait-xs24": "cait_xs24_384"}[name]
    theirs = timm.create_model(timm_name, img_size=image_size, patch_size=patch_size, num_classes=CLASSES)
    theirs = randomised(theirs).eval()
    ours = Network(build_backbone(name, image_size=image_size, patch_size=patch_size)).eval()
    load_timm_state_dict(ours, theirs.state_dict())
    return theirs, ours


def small_theirs(image_size: int = 16) -> nn.Module:
    """A CaiT of timm's with two blocks."""
    return randomised(
        timm.models.cait.Cait(
            img_size=image_size, patch_size=4, embed_dim=24, depth=2, num_heads=4, num_classes=CLASSES, mlp_ratio=4
        )
    )


def small_ours(image_size: tuple[int, int] = (16, 16)) -> Network:
    return Network(small_core("talking-heads", image_size=image_size)).float()


@pytest.mark.parametrize(
    ("name", "image_size", "patch_size"),
    [("cait-xxs24", 32, 4), ("cait-xs24", 32, 4), ("cait-xxs24", 224, 16)],
)
def test_features_and_logits_are_timms(name: str, image_size: int, patch_size: int) -> None:
    theirs, ours = theirs_and_ours(name, image_size, patch_size)
    images = torch.randn(2, 3, image_size, image_size)
    with torch.no_grad():
        for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-10)):
            theirs, ours, images = theirs.to(dtype), ours.to(dtype), images.to(dtype)
            expected = theirs.forward_features(images)
            tokens = ours.core.features(ours.tokens(images))
            classes = ours.core.classify(tokens)[:, 0]
            assert classes.std() > 0.5
            torch.testing.assert_close(classes, expected[:, 0], rtol=tolerance, atol=tolerance)
            torch.testing.assert_close(ours.core.norm(tokens), expected[:, 1:], rtol=tolerance, atol=tolerance)
            torch.testing.assert_close(ours(images), theirs(images), rtol=tolerance, atol=tolerance)


def test_gradients_are_timms() -> None:
    """Through every parameter that both have, in float64."""
    theirs, ours = small_theirs().double(), small_ours().double()
    load_timm_state_dict(ours, theirs.state_dict())
    images = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    upstream = torch.randn(3, CLASSES, dtype=torch.float64)
    theirs(images).backward(upstream)
    ours(images).backward(upstream)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.copy_(parameter.grad)
    gradients = timm_state_dict(ours)
    for name, parameter in theirs.named_parameters():
        torch.testing.assert_close(
            parameter.grad, gradients[name], rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_our_state_loads_strictly_into_timm() -> None:
    theirs, ours = small_theirs(), small_ours()
    images = torch.randn(2, 3, 16, 16)
    theirs.load_state_dict(timm_state_dict(ours), strict=True)
    with torch.no_grad():
        torch.testing.assert_close(theirs.eval()(images), ours(images), rtol=1e-5, atol=1e-5)


def test_round_trip_restores_every_value() -> None:
    for core in (small_core("talking-heads"), small_core("gated-positional")):
        target = copy.deepcopy(core)
        randomised(target, seed=5)
        assert not torch.equal(target.blocks[1].attention.qkv.weight, core.blocks[1].attention.qkv.weight)
        load_timm_state_dict(target, {name: value.clone() for name, value in timm_state_dict(core).items()})
        for name, value in target.state_dict().items():
            assert torch.equal(value, core.state_dict()[name]), name


def test_names_of_a_convit_block() -> None:
    """Those of timm's GPSA; its position map's bias is there as zeros."""
    state = timm_state_dict(small_core("gated-positional", depth=1))
    entries = {name.removeprefix("blocks.0.") for name in state if name.startswith("blocks.0.")}
    attention = {
        "gating_param",
        "qk.weight",
        "v.weight",
        "proj.weight",
        "proj.bias",
        "pos_proj.weight",
        "pos_proj.bias",
    }
    pairs = {f"{part}.{entry}" for part in ("norm1", "norm2", "mlp.fc1", "mlp.fc2") for entry in ("weight", "bias")}
    assert entries == {f"attn.{entry}" for entry in attention} | pairs
    assert not state["blocks.0.attn.pos_proj.bias"].any()


def test_a_core_alone_takes_its_own_entries() -> None:
    """So other classes or an image of another depth do not matter."""
    theirs, whole = small_theirs(), small_ours()
    load_timm_state_dict(whole, theirs.state_dict())
    core = small_core("talking-heads", image_size=(16, 16)).float()
    load_timm_state_dict(core, theirs.state_dict())
    for name, value in core.state_dict().items():
        assert torch.equal(value, whole.core.state_dict()[name]), name


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_wrapper_prefixes_are_accepted(prefix: str) -> None:
    theirs, ours = small_theirs(), small_ours()
    load_timm_state_dict(ours, {prefix + name: value for name, value in theirs.state_dict().items()})
    assert torch.equal(ours.heads.weight[0], theirs.head.weight)


def test_compiled_network_and_compiled_core_are_loaded() -> None:
    theirs, ours = small_theirs(), small_ours()
    load_timm_state_dict(torch.compile(ours), theirs.state_dict())
    assert torch.equal(ours.encoder.weight[0], theirs.patch_embed.proj.weight)
    core = small_core("talking-heads", image_size=(16, 16))
    load_timm_state_dict(torch.compile(core), theirs.state_dict())
    assert torch.equal(core.class_token, theirs.cls_token[0, 0].double())


State = dict[str, Tensor]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            lambda s: {k: v for k, v in s.items() if k != "blocks.1.attn.proj_w.bias"},
            r"missing: blocks\.1\.attn\.proj_w\.bias$",
        ),
        (lambda s: s | {"blocks.2.gamma_1": torch.ones(24)}, r"unexpected: blocks\.2\.gamma_1$"),
        (
            lambda s: s | {"pos_embed": torch.zeros(1, 196, 24)},
            r"wrongly shaped: pos_embed \(expected shape \[1, 16, 24\], got \[1, 196, 24\]\)$",
        ),
        (lambda s: s | {"head.weight": torch.zeros(1000, 24)}, r"wrongly shaped: head\.weight"),
        (lambda s: {"model": s}, "missing: pos_embed, .*unexpected: model$"),
    ],
    ids=["missing", "unexpected", "another grid", "other classes", "nested"],
)
def test_what_does_not_fit_is_named_and_changes_nothing(change: Callable[[State], dict], complaint: str) -> None:
    ours = small_ours()
    before = copy.deepcopy(ours.state_dict())
    with pytest.raises(ValueError, match=complaint):
        load_timm_state_dict(ours, change(small_theirs().state_dict()))
    for name, value in ours.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_models_that_timm_has_no_name_for_are_refused() -> None:
    with pytest.raises(ValueError, match=r"one input, got 2 in 'encoder\.weight'; load its core alone"):
        load_timm_state_dict(Network(small_core("talking-heads"), num_inputs=2), {})
    with pytest.raises(ValueError, match="model: expected a TokenCore, or a network that holds one"):
        timm_state_dict(nn.Linear(2, 2))
    attributed = small_ours()
    attributed.source = nn.Parameter(torch.zeros(1, 24))
    with pytest.raises(ValueError, match="no name for its entry 'source'"):
        timm_state_dict(attributed)
    core = small_core("talking-heads")
    core.register_buffer("temperature", torch.ones(()))
    with pytest.raises(ValueError, match="no name for the core's entry 'temperature'"):
        timm_state_dict(core)
