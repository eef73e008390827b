"""Inference against the restatement: one image in every slot, summed; the folded network is the ensemble's mean."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import restatement
import torch
from pairs import mixing_in_double, published_twin
from torch import Tensor

from mixfast.methods import MultiInputNetwork, create_model
from mixfast.mixing import sum_mixing

CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "single": ("wrn16-1", "single", {}),
    "mimo": ("wrn10-1", "mimo", {"num_inputs": 2}),
    "mimo, M = 4": ("wrn10-1", "mimo", {"num_inputs": 4}),
    "linear, M = 3": ("wrn10-1", "linear-mixmo", {"num_inputs": 3}),
    "cut": ("wrn10-2", "cut-mixmo", {"num_inputs": 2}),
    "cut, 1 encoder": ("wrn10-1", "cut-mixmo", {"num_inputs": 2, "encoders": "shared"}),
    "cut, 1 head": ("wrn10-1", "cut-mixmo", {"num_inputs": 2, "heads": "shared"}),
    "cut, 1 encoder, 1 head": ("wrn10-1", "cut-mixmo", {"num_inputs": 2, "encoders": "shared", "heads": "shared"}),
    "mixshare": ("wrn10-1", "mixshare", {"num_inputs": 2}),
    "mixshare, partial": ("wrn10-1", "mixshare", {"num_inputs": 3, "unmix_fraction": 0.25, "fade_epochs": 0}),
    "cut, preact": ("preact-resnet18-1", "cut-mixmo", {"num_inputs": 2}),
}


@pytest.fixture(scope="module", params=CASES)
def model_and_network(request) -> tuple[str, MultiInputNetwork]:
    """In evaluation mode and float64, with batch-norm statistics and biases unlike the initial ones."""
    model, method, settings = CASES[request.param]
    generator = torch.Generator().manual_seed(3)
    network = create_model(model, num_classes=6, method=method, generator=generator, **settings).double()
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if "running_var" in name:
                value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
            elif "running_mean" in name or name.endswith("bias"):
                value.copy_(torch.randn(value.shape, generator=generator) / 10)
    return model, network.eval()


@pytest.fixture
def network(model_and_network) -> MultiInputNetwork:
    return model_and_network[1]


@pytest.fixture
def images(model_and_network) -> Tensor:
    side = 64 if model_and_network[0].startswith("preact") else 16
    return torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


def test_predictions_of_every_subnetwork(model_and_network, images):
    model, network = model_and_network
    twin = published_twin(model, network)
    with torch.no_grad():
        wanted = torch.stack(restatement.inference(twin, images, network.num_inputs), 1)
        assert_close(network.predict(images), wanted)


def test_prediction_is_the_training_pass_with_a_sum(network, images):
    """Every slot with weight 1 / M; nothing is unmixed at inference."""
    grid = network.core.stem.grid(tuple(images.shape[2:]))
    mixing = mixing_in_double(sum_mixing(len(images), network.num_inputs, grid, "cpu"))
    if network.num_inputs == 3:  # 1/3 as a float32 isn't 1/3
        mixing = type(mixing)(torch.full_like(mixing.inside, 1 / 3), torch.full_like(mixing.outside, 1 / 3), grid)
    with torch.no_grad():
        network.fade.fill_(1)
        summed = network(images, mixing)
        network.fade.fill_(0.25)
        assert_close(network.predict(images), summed)


def test_folded_network(model_and_network, images):
    """A plain network whose output is the mean of the logits; also as the published code would run it."""
    model, network = model_and_network
    before = copy.deepcopy(network.state_dict())
    folded = network.fold()
    with torch.no_grad():
        wanted = network.predict(images).mean(1, keepdim=True)
        assert not folded.training
        assert_close(folded.predict(images), wanted)
        plain = restatement.inference(published_twin(model, folded), images, num_inputs=1)
        assert_close(plain[0][:, None], wanted)
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in before.items())
