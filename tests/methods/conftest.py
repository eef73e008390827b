from __future__ import annotations

import pytest
import torch

import mixfast


@pytest.fixture
def make_network():
    """A small transformer network in float64 whose every parameter is random, in evaluation mode."""

    def make(method, backbone="convit64-2", **settings):
        generator = torch.Generator().manual_seed(0)
        network = mixfast.create_model(
            backbone, num_classes=7, method=method, image_size=(12, 16), patch_size=4, generator=generator, **settings
        )
        network = network.double().eval()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        return network

    return make


@pytest.fixture
def images():
    """Five images."""
    return torch.randn(5, 3, 12, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
