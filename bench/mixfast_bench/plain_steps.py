"""The plain MixViT's training step and inference, timed beside mixfast's. Their batches come from mixfast's own feed."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mixfast.config import Config
from mixfast.data import ImageSet
from mixfast.flops import training_flops
from mixfast.training.feed import Batch, Feed
from mixfast.training.precision import autocast
from mixfast.training.session import build_network
from mixfast_bench.data import BatchStream
from mixfast_bench.inference import InferencePass
from mixfast_bench.measure import Mark
from mixfast_bench.plain_transformer import PlainMixViT


def plain_network(network: torch.nn.Module) -> PlainMixViT:
    """The plain form of one of mixfast's MixViT networks, with its parameters."""
    return PlainMixViT(network.core, network.core.architecture, network)


def plain_loss(network: PlainMixViT, batch: Batch, smoothing: float) -> Tensor:
    """Eq. 4.4 with masks, images and smoothed one-hot labels as tensors."""
    images = [batch.images[index] for index in batch.index.unbind(1)]
    logits = network(images, batch.mixing.weights().flatten(2))
    classes = logits[0].shape[1]
    loss = 0.0
    for i, head_logits in enumerate(logits):
        target = F.one_hot(batch.target[:, i], classes).float() * (1 - smoothing) + smoothing / classes
        loss = loss + (batch.weight[:, i] * -(target * F.log_softmax(head_logits, 1)).sum(1)).mean()
    return loss


class PlainMixViTStep:
    """The plain training step: eager, torch's default optimiser; see ``mixfast_bench.step.TrainerStep``.

    Its ``flops`` are those of mixfast's network: what has to be computed, however it is written.
    """

    def __init__(self, name: str, config: Config, data: ImageSet) -> None:
        self.name = name
        network, method = build_network(config, data)
        self.flops = training_flops(network, method.visible_inputs(), data.image_shape, config.training.batch_size)
        self.result: Tensor | None = None
        self._device, self._amp = data.images.device, config.training.amp
        self._network = plain_network(network).to(self._device)
        self._smoothing = config.training.label_smoothing
        feed = Feed(data, method, config, network.core.grid)
        self._stream = BatchStream(feed, config.schedule.epochs)
        settings = config.optimizer
        self._optimiser = torch.optim.AdamW(
            self._network.parameters(), lr=config.learning_rate(), weight_decay=settings.weight_decay
        )

    def run(self, mark: Mark) -> None:
        batch = self._stream.next()
        mark("data")
        with autocast(self._device, self._amp):
            loss = plain_loss(self._network, batch, self._smoothing)
        loss.backward()
        mark("forward + backward")
        self._optimiser.step()
        self._optimiser.zero_grad()
        mark("optimiser")
        self.result = loss.detach()


class PlainMixViTInference(InferencePass):
    """The plain form's predictions."""

    def prepare(self, network: torch.nn.Module) -> torch.nn.Module:
        return plain_network(network)

    def predict(self, images: Tensor) -> Tensor:
        return torch.stack(self.network.predict(images), 1)
