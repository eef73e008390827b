"""The input pipeline by itself: what ``mixfast bench data`` times."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from mixfast.config import Config
from mixfast.data import Images
from mixfast.methods import METHODS, Moment
from mixfast.models import build_backbone
from mixfast.training.feed import Batch, Feed
from mixfast_bench.measure import Mark


def floor_bytes(views: Tensor) -> int:
    """The least traffic that makes these augmented views: every uint8 pixel read once, every result written once."""
    return views.numel() * (1 + views.element_size())


class BatchStream:
    """The batches of a feed, epoch after epoch, as the trainer asks for them."""

    def __init__(self, feed: Feed, epochs: int) -> None:
        self._feed, self._epochs = feed, epochs
        self._epoch = 0
        self._batches: Iterator[Batch] = iter(())

    def next(self) -> Batch:
        """The next batch; the first one of an epoch includes planning the epoch."""
        batch = next(self._batches, None)
        if batch is None:
            self._epoch += 1
            self._batches = self._feed.batches(self._feed.plan(self._epoch), Moment(self._epoch, self._epochs))
            batch = next(self._batches)
        return batch


class Pipeline:
    """Makes one training batch a run: the mix, the views, labels and loss weights, everything but the network.

    Args:
        name: of the contender.
        config: its ``model`` gives the grid that inputs are mixed on.
        data: on the training device.

    Attributes:
        floor_bytes: the least traffic a run can do with.
    """

    def __init__(self, name: str, config: Config, data: Images) -> None:
        self.name = name
        method = METHODS[config.method.name].from_settings(config.method.model_dump())
        grid = build_backbone(config.model.name).stem.grid(data.image_shape)
        self._stream = BatchStream(Feed(data, method, config, grid), config.schedule.epochs)
        self.floor_bytes = floor_bytes(self._stream.next().images)

    def run(self, mark: Mark) -> None:
        self._stream.next()
        mark("data")
