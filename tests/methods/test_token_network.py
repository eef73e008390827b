"""MIMO and MixMo over a transformer (thesis 4.3.1), and the plain one."""

from __future__ import annotations

import pytest
import restated_mixvit as restated
import torch

import mixfast
from mixfast.mixing import all_from, cut_mixing, draw_ratios, single_mixing, sum_mixing

close = dict(rtol=1e-9, atol=1e-10)


def logits_of(network, images, weights):
    """One sample, token by token: M images, the weights of their tokens ``[M, N]``, to ``[M, K]``."""
    tokens = restated.positions(network) + sum(
        weight[:, None] * restated.patch_tokens(network, image, encoder)
        for encoder, (image, weight) in enumerate(zip(images, weights, strict=True))
    )
    features = restated.class_token(network, network.core.features(tokens[None])[0])
    return torch.stack([restated.head(network, i, features) for i in range(network.num_inputs)])


@pytest.mark.parametrize("backbone", ["convit64-2", "cait-xxs24"])
def test_the_plain_network(make_network, images, backbone):
    network = make_network("single", backbone)
    one = torch.ones(1, 12, dtype=torch.float64)
    expected = torch.stack([logits_of(network, [image], one) for image in images])
    torch.testing.assert_close(network.predict(images), expected, **close)
    torch.testing.assert_close(network(images, single_mixing(5, network.core.grid, "cpu")), expected, **close)


@pytest.mark.parametrize("inputs", [2, 3])
def test_mixmo_mixes_tokens_of_encoders_of_their_own(make_network, images, inputs):
    network = make_network("cut-mixmo", num_inputs=inputs)
    generator = torch.Generator().manual_seed(4)
    kappa = draw_ratios(4, inputs, 1.0, generator=generator, device="cpu")
    mixing = cut_mixing(kappa, network.core.grid, generator=generator)
    index = torch.randint(5, (4, inputs), generator=generator)
    weights = mixing.weights().flatten(2).double()
    expected = torch.stack([logits_of(network, images[index[b]], weights[b]) for b in range(4)])
    torch.testing.assert_close(network(images, mixing, index), expected, rtol=1e-6, atol=1e-7)  # weights are float32


@pytest.mark.parametrize("method", ["mimo", "linear-mixmo", "cut-mixmo"])
@pytest.mark.parametrize("inputs", [2, 3])
def test_inference_sum_and_separate(make_network, images, method, inputs):
    summed = make_network(method, num_inputs=inputs)
    mixing = sum_mixing(5, inputs, summed.core.grid, "cpu")
    torch.testing.assert_close(summed.predict(images), summed(images, mixing), rtol=1e-6, atol=1e-7)
    separate = make_network(method, num_inputs=inputs, inference="separate")
    logits = separate.predict(images)
    one = torch.ones(12, dtype=torch.float64)
    for i in range(inputs):
        weights = torch.stack([one if j == i else 0 * one for j in range(inputs)])
        expected = torch.stack([logits_of(separate, [image] * inputs, weights)[i] for image in images])
        torch.testing.assert_close(logits[:, i], expected, **close)
        mixing = all_from(i, 5, inputs, separate.core.grid, "cpu")
        torch.testing.assert_close(separate(images, mixing)[:, i], logits[:, i], **close)


def test_a_shared_head_reads_every_subnetwork(make_network, images):
    network = make_network("cut-mixmo", num_inputs=3, heads="shared", inference="separate")
    expected = torch.cat([network(images, all_from(i, 5, 3, network.core.grid, "cpu")) for i in range(3)], 1)
    assert expected.shape == (5, 3, 7)
    torch.testing.assert_close(network.predict(images), expected, **close)


def test_same_initialisation(images):
    generator = torch.Generator().manual_seed(0)
    network = mixfast.create_model(
        "convit64-1",
        num_classes=3,
        method="cut-mixmo",
        num_inputs=2,
        encoder_init="same",
        image_size=16,
        generator=generator,
    )
    assert torch.equal(network.encoder.weight[0], network.encoder.weight[1])


def test_fold_is_the_plain_network(make_network, images):
    network = make_network("cut-mixmo", num_inputs=2)
    folded = network.fold()
    torch.testing.assert_close(folded.predict(images), network.predict(images).mean(1, keepdim=True), **close)
    with pytest.raises(ValueError, match="inference='separate' has no plain equivalent"):
        make_network("cut-mixmo", num_inputs=2, inference="separate").fold()


@pytest.mark.parametrize("method", ["mimo", "cut-mixmo"])
def test_a_convolutional_backbone_has_no_separate_inference(method):
    with pytest.raises(ValueError, match="inference must be 'sum' for a convolutional backbone, got 'separate'"):
        mixfast.create_model("wrn10-1", num_classes=3, method=method, num_inputs=2, inference="separate")


def test_mixshare_needs_convolutions():
    with pytest.raises(ValueError, match="MixShare needs a convolutional backbone"):
        mixfast.create_model("convit64-1", num_classes=3, method="mixshare", num_inputs=2, image_size=8)


def test_an_unknown_inference_is_refused():
    with pytest.raises(ValueError, match="inference must be one of sum, separate for this network, got 'single'"):
        mixfast.create_model("convit64-1", num_classes=3, method="mimo", num_inputs=2, inference="single", image_size=8)


def test_manifold_mixup_is_refused(make_network, images):
    network = make_network("single")
    with pytest.raises(ValueError, match="hidden_mix must be None"):
        network(images, single_mixing(5, network.core.grid, "cpu"), None, object())
