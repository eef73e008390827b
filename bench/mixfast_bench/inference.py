"""Predictions for a batch of images: what ``mixfast bench inference`` times."""

from __future__ import annotations

import torch
from mixfast_kernels import augment
from torch import Tensor

from mixfast.config import Config
from mixfast.data import ImageSet
from mixfast.flops import inference_flops
from mixfast.training.session import build_network
from mixfast_bench.measure import Mark


class InferencePass:
    """All subnetworks' logits for one batch of normalised images, in evaluation mode, without gradients.

    Args:
        name: of the contender.
        config: its network, batch size, and whether ``predict`` is compiled (``training.compile``).
        data: the images; the first ``batch_size`` of them are predicted.

    Attributes:
        flops: operations of a pass.
        result: the logits of the last pass; None before the first.
    """

    def __init__(self, name: str, config: Config, data: ImageSet) -> None:
        self.name = name
        device, batch_size = data.images.device, config.training.batch_size
        network, _ = build_network(config, data)
        self.flops = inference_flops(network, data.image_shape, batch_size)
        self.network = self.prepare(network).to(device).eval()
        self.result: Tensor | None = None
        index = torch.arange(batch_size, device=device) % len(data)
        self._images = augment(data.images, index=index, mean=data.mean, std=data.std)
        compiled = config.training.compile == "on"
        self._predict = torch.compile(self.predict, dynamic=False) if compiled else self.predict

    def prepare(self, network: torch.nn.Module) -> torch.nn.Module:
        """The network that is timed: mixfast's own, in channels-last memory."""
        return network.with_layout(channels_last=True)

    def predict(self, images: Tensor) -> Tensor:
        """Logits ``[B, M, K]``."""
        return self.network.predict(images)

    @torch.no_grad()
    def run(self, mark: Mark) -> None:
        self.result = self._predict(self._images)
        mark("inference")
