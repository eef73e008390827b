"""A network's predictions over a whole data set."""

from __future__ import annotations

from contextlib import AbstractContextManager, closing, nullcontext

import torch
from mixfast_kernels import augment
from torch import Tensor

from mixfast.data import Images
from mixfast.methods import Network


@torch.no_grad()
def predict_logits(
    network: Network, data: Images, batch_size: int, precision: AbstractContextManager | None = None
) -> Tensor:
    """Every subnetwork's logits for every image, float32 ``[N, M, K]`` on the device.

    Args:
        network: put into evaluation mode, and back after.
        data: its pixels come to the network's device; not augmented, only normalised.
        batch_size: images at a time.
        precision: an autocast context to predict in.
    """
    training = network.training
    network.eval()
    logits = []
    wanted = torch.arange(len(data)).split(batch_size)
    with closing(data.stream(wanted.__getitem__, range(len(wanted)), batch_size)) as stream:
        for index, pixels in zip(wanted, stream, strict=True):
            place = pixels.locate(index.to(data.device))
            images = augment(pixels.images, index=place, mean=data.mean, std=data.std)
            with precision or nullcontext():
                logits.append(network.predict(images).float())
    network.train(training)
    return torch.cat(logits)
