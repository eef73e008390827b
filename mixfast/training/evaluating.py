"""A network's predictions over a whole data set."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from mixfast_kernels import augment
from torch import Tensor

from mixfast.data.image_set import ImageSet
from mixfast.methods import Network


@torch.no_grad()
def predict_logits(
    network: Network, data: ImageSet, batch_size: int, precision: AbstractContextManager | None = None
) -> Tensor:
    """Every subnetwork's logits for every image, float32 ``[N, M, K]`` on the device.

    Args:
        network: put into evaluation mode, and back after.
        data: on the network's device; not augmented, only normalised.
        batch_size: images at a time.
        precision: an autocast context to predict in.
    """
    training = network.training
    network.eval()
    logits = []
    for index in torch.arange(len(data), device=data.images.device).split(batch_size):
        images = augment(data.images, index=index, mean=data.mean, std=data.std)
        if precision is None:
            logits.append(network.predict(images).float())
        else:
            with precision:
                logits.append(network.predict(images).float())
    network.train(training)
    return torch.cat(logits)
