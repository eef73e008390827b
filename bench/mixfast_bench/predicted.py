"""What published peaks of the card predict for a training step, to stand beside what was measured."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mixfast.config import Config
from mixfast.data import ImageSet
from mixfast.flops.cards import Card
from mixfast.flops.costing import network_of
from mixfast.flops.counting import count
from mixfast.flops.prediction import fused_and_eager
from mixfast.training.precision import AMP_DTYPES


@dataclass(frozen=True)
class PredictedStep:
    """Seconds if only products touched memory, and if every operator did; see ``mixfast.flops.prediction``."""

    card: str
    fused: float
    eager: float


def predicted_step(config: Config, images: ImageSet, card: Card) -> PredictedStep:
    """Of a configuration's step on images of this shape."""
    network, method = network_of(config, images)
    cost = count(network, method.visible_inputs(), images.image_shape, config.training.batch_size)
    precision = AMP_DTYPES.get(config.training.amp, torch.float32)
    return PredictedStep(card.name, *fused_and_eager(cost, config.optimizer, card, precision))
