"""MixViT's network against its algorithms restated token by token, forward, backward and at inference."""

from __future__ import annotations

import pytest
import restated_mixvit as restated
import torch
from mixfast_kernels import Mixing

from mixfast.methods.mixvit_network import ALTERNATION_SEED, MixViTNetwork
from mixfast.mixing import all_from, patch_cut_mixing, sum_mixing
from mixfast.models import build_backbone

METHODS = ("mixvit-embedding", "mixvit-encoding", "mixvit-unattributed")
VARIANTS = [
    *((method, place, inputs) for method in METHODS[:2] for place in ("late", "early") for inputs in (2, 3)),
    ("mixvit-unattributed", "late", 2),
]
close = dict(rtol=1e-9, atol=1e-10)


def drawn(network, batch, seed=3):
    generator = torch.Generator().manual_seed(seed)
    inputs, grid = network.num_inputs, network.core.grid
    mixing = patch_cut_mixing(
        batch, inputs, grid, patch_size=4, alpha=1.0, probability=1, generator=generator, device="cpu"
    )
    index = torch.randint(5, (batch, inputs), generator=generator)
    return mixing, index


@pytest.mark.parametrize(("method", "place", "inputs"), VARIANTS)
@pytest.mark.parametrize("backbone", ["convit64-2", "cait-xxs24"])
def test_training_is_algorithm_a8(make_network, images, method, place, inputs, backbone):
    if backbone == "cait-xxs24" and (inputs, place) != (2, "late"):
        pytest.skip("the deep backbone is for the main variants")
    network = make_network(method, backbone, num_inputs=inputs, place=place)
    mixing, index = drawn(network, batch=3)
    logits = network(images, mixing, index)
    masks = mixing.weights().flatten(2).double()
    expected = torch.stack([restated.training_logits(network, images[index[b]], masks[b]) for b in range(3)])
    torch.testing.assert_close(logits, expected, **close)
    weights = torch.randn_like(logits)
    parameters = dict(network.named_parameters())
    grads = torch.autograd.grad((logits * weights).sum(), parameters.values())
    expected_grads = torch.autograd.grad((expected * weights).sum(), parameters.values())
    for name, grad, wanted in zip(parameters, grads, expected_grads, strict=True):
        torch.testing.assert_close(grad, wanted, rtol=1e-7, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize(("method", "place", "inputs"), VARIANTS)
def test_inference_is_algorithm_a9(make_network, images, method, place, inputs):
    """Set i is all tokens attributed to source i, and its features go to head i."""
    network = make_network(method, num_inputs=inputs, place=place)
    logits = network.predict(images)
    assert logits.shape == (5, inputs, 7)
    one = torch.ones(network.core.grid[0] * network.core.grid[1], dtype=torch.float64)
    for b in range(5):
        for i in range(inputs):
            masks = [one if j == i else 0 * one for j in range(inputs)]
            expected = restated.training_logits(network, [images[b]] * inputs, masks)[i]
            torch.testing.assert_close(logits[b, i], expected, **close)


@pytest.mark.parametrize("method", METHODS)
def test_a_prediction_is_the_training_pass_with_all_tokens_from_one_input(make_network, images, method):
    network = make_network(method, num_inputs=3)
    logits = network.predict(images)
    for i in range(3):
        mixing = all_from(i, 5, 3, network.core.grid, "cpu")
        torch.testing.assert_close(network(images, mixing)[:, i], logits[:, i], **close)


@pytest.mark.parametrize(("method", "place", "inputs"), VARIANTS[:-1])
def test_other_inference_schemes(make_network, images, method, place, inputs):
    """Table 4.6: one pass, with the mean of all sets; each token in one set; or the first set only."""
    network = make_network(method, num_inputs=inputs, place=place)
    count = network.core.grid[0] * network.core.grid[1]
    owner = torch.randint(inputs, (count,), generator=torch.Generator().manual_seed(ALTERNATION_SEED))
    masks = {
        "sum": torch.full((inputs, count), 1 / inputs, dtype=torch.float64),
        "alternating": torch.stack([owner == i for i in range(inputs)]).double(),
        "single": torch.stack([torch.full((count,), float(i == 0), dtype=torch.float64) for i in range(inputs)]),
    }
    assert len(owner.unique()) == inputs
    for scheme, mask in masks.items():
        network.inference = scheme
        logits = network.predict(images)
        wanted = torch.stack([restated.training_logits(network, [image] * inputs, mask) for image in images])
        torch.testing.assert_close(logits, wanted[:, :1] if scheme == "single" else wanted, **close)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("place", ["late", "early"])
@pytest.mark.parametrize("inputs", [2, 3])
@pytest.mark.parametrize("backbone", ["convit64-2", "cait-xxs24"])
def test_all_tokens(make_network, images, method, place, inputs, backbone):
    """Forward: M * N tokens. Inference: N tokens through the feature blocks where their copies would be the same."""
    if backbone == "cait-xxs24" and inputs == 3:
        pytest.skip("the deep backbone is for two inputs")
    network = make_network(method, backbone, num_inputs=inputs, place=place, tokens="all")
    index = torch.randint(5, (3, inputs), generator=torch.Generator().manual_seed(2))
    mixing = sum_mixing(3, inputs, network.core.grid, "cpu")
    logits = network(images, mixing, index)
    expected = torch.stack([restated.all_tokens_logits(network, images[index[b]]) for b in range(3)])
    torch.testing.assert_close(logits, expected, **close)
    predicted = network.predict(images)
    expected = torch.stack([restated.all_tokens_logits(network, [image] * inputs) for image in images])
    torch.testing.assert_close(predicted, expected, **close)
    torch.testing.assert_close(predicted, network(images, sum_mixing(5, inputs, network.core.grid, "cpu")), **close)


def test_subnetworks_differ_only_with_attribution(make_network, images):
    """Without it all heads read the same class token."""
    for method, same in (("mixvit-embedding", False), ("mixvit-encoding", False), ("mixvit-unattributed", True)):
        network = make_network(method, num_inputs=2)
        with torch.no_grad():
            network.heads.weight.copy_(network.heads.weight[:1].expand_as(network.heads.weight))
            network.heads.bias.zero_()
        first, second = network.predict(images).unbind(1)
        assert torch.allclose(first, second) == same


def test_fold_without_attribution_is_the_plain_network(make_network, images):
    network = make_network("mixvit-unattributed", num_inputs=2)
    folded = network.fold()
    assert folded.num_inputs == 1
    torch.testing.assert_close(folded.predict(images), network.predict(images).mean(1, keepdim=True), **close)


def test_fold_is_refused_where_there_is_no_plain_equivalent(make_network):
    with pytest.raises(ValueError, match="source attribution has no plain equivalent"):
        make_network("mixvit-embedding", num_inputs=2).fold()
    with pytest.raises(ValueError, match="all tokens has no plain equivalent"):
        make_network("mixvit-unattributed", num_inputs=2, tokens="all").fold()


def test_weight_decay_spares_vectors_and_embeddings(make_network):
    network = make_network("mixvit-encoding", num_inputs=2)
    spared = network.undecayed()
    names = dict(network.named_parameters())
    assert spared <= set(names)
    assert {"sources.bias", "core.position", "core.class_token", "encoder.bias", "heads.bias"} <= spared
    assert not {"sources.weight", "encoder.weight", "heads.weight"} & spared
    assert all(value.dim() >= 2 for name, value in names.items() if name not in spared)


def test_a_step_compiles_to_one_graph(make_network, images):
    network = make_network("mixvit-embedding", num_inputs=2).train()
    mixing, index = drawn(network, batch=3)

    def loss(inside, outside, bitmap):
        return network(images, Mixing(inside, outside, network.core.grid, bitmap=bitmap), index).square().sum()

    compiled = torch.compile(loss, fullgraph=True)
    zone = (mixing.inside, mixing.outside, mixing.bitmap)
    torch.testing.assert_close(compiled(*zone), loss(*zone), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attribution": "encodng"}, "attribution must be one of none, embedding, encoding; got 'encodng'"),
        ({"place": "middle"}, "place must be one of late, early; got 'middle'"),
        ({"tokens": "some"}, "tokens must be one of mixed, all; got 'some'"),
        (
            {"inference": "mean"},
            "inference must be one of separate, sum, alternating, single for this network, got 'mean'",
        ),
        ({"tokens": "all", "inference": "sum"}, "inference must be one of separate for this network, got 'sum'"),
    ],
)
def test_wrong_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        MixViTNetwork(build_backbone("convit64-1", image_size=8), 3, **change)


def test_a_convolutional_backbone_is_refused():
    import mixfast

    with pytest.raises(ValueError, match="MixViT needs a transformer"):
        mixfast.create_model("wrn10-1", num_classes=3, method="mixvit-embedding", num_inputs=2)


def test_images_of_another_size_are_refused(make_network):
    with pytest.raises(ValueError, match=r"images must be \(12, 16\) pixels for this network, got \(16, 16\)"):
        make_network("mixvit-embedding", num_inputs=2).predict(torch.zeros(1, 3, 16, 16, dtype=torch.float64))


def test_a_checkpoint_of_another_m_is_refused(make_network):
    two, three = (make_network("mixvit-embedding", num_inputs=inputs) for inputs in (2, 3))
    with pytest.raises(RuntimeError, match=r"size mismatch for sources.bias"):
        two.load_state_dict(three.state_dict())
