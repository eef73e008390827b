"""A training step, data included, made of the trainer's own parts."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from torch import Tensor

from mixfast.config import Config
from mixfast.data import ImageSet
from mixfast.flops import training_flops
from mixfast.training.run_directory import RunDirectory
from mixfast.training.session import build_network
from mixfast.training.trainer import Trainer
from mixfast_bench.data import BatchStream
from mixfast_bench.measure import Mark


class TrainerStep:
    """Trains the network of a configuration, one step a run.

    The trainer makes the network, its memory layout, the feed, the (compiled) loss, the precision and the optimiser;
    only the loop is written out here, to mark the phases. A test holds it to the trainer's weights, bit for bit.

    Args:
        name: of the contender.
        config: of the run.
        data: on the training device.

    Attributes:
        flops: operations of the forward and backward pass.
        result: the loss of the last step, on the device; None before the first.
    """

    def __init__(self, name: str, config: Config, data: ImageSet) -> None:
        self.name = name
        network, method = build_network(config, data)
        # Nothing is written: a trainer touches its run directory only when it trains, and there is no evaluation.
        self.trainer = Trainer(config, network, method, data, data, RunDirectory(Path("bench")), Console(quiet=True))
        self.trainer.network.train()
        self.flops = training_flops(network, method.visible_inputs(), data.image_shape, config.training.batch_size)
        self.result: Tensor | None = None
        self._smoothing = config.training.label_smoothing
        self._stream = BatchStream(self.trainer.feed, config.schedule.epochs)

    def run(self, mark: Mark) -> None:
        trainer = self.trainer
        batch = self._stream.next()
        mark("data")
        with trainer.precision():
            loss = trainer.loss(trainer.network, batch, self._smoothing)
        trainer.scaler.scale(loss).backward()
        mark("forward + backward")
        trainer.scaler.step(trainer.optimiser)
        trainer.scaler.update()
        trainer.optimiser.zero_grad(set_to_none=True)
        mark("optimiser")
        self.result = loss.detach()
