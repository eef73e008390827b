"""The opponent: Cut-MixMo written the straightforward way, as one does without mixfast, and as fast as that way allows.

Written from METHODS 2, 4 and 7. One image after the other is cropped, flipped and normalised on the host by
torchvision's transforms, as the ``__getitem__`` of a torchvision data set does, with torch's global generator; masks
are drawn one by one and stored whole; labels are one-hot; the network is eager, in PyTorch's default memory layout,
encodes both images everywhere and mixes with floating-point masks; the optimiser is torch's default. There are no
loader processes: on a CPU they would take their time from the training itself.

Shapes: B samples of two images each, c channels, H x W pixels, h x w positions of the mixing grid, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import transforms

from mixfast.config import Config
from mixfast.data import ImageSet
from mixfast.flops import training_flops
from mixfast.methods import METHODS
from mixfast.models import build_backbone
from mixfast.training.precision import autocast
from mixfast.training.session import build_network
from mixfast_bench.data import floor_bytes
from mixfast_bench.measure import Mark


@dataclass(frozen=True)
class PlainBatch:
    """A batch with everything written out."""

    first: Tensor  # float32 [B, c, H, W]
    second: Tensor  # float32 [B, c, H, W]
    mask: Tensor  # float32 [B, 1, h, w], the weight of the first image
    targets: tuple[Tensor, Tensor]  # float32 [B, K] each, one-hot
    weights: tuple[Tensor, Tensor]  # float32 [B] each, of the heads' losses

    def to(self, device: torch.device) -> PlainBatch:
        """The same batch on ``device``."""
        return PlainBatch(
            self.first.to(device),
            self.second.to(device),
            self.mask.to(device),
            (self.targets[0].to(device), self.targets[1].to(device)),
            (self.weights[0].to(device), self.weights[1].to(device)),
        )


class PlainLoader:
    """Draws batches on the host, image by image.

    Args:
        config: of a Cut-MixMo run with two inputs and rectangles.
        data: the images, on any device.
        grid: (h, w).
    """

    def __init__(self, config: Config, data: ImageSet, grid: tuple[int, int]) -> None:
        self.images = data.images.permute(0, 2, 3, 1).contiguous().cpu().numpy()
        self.labels = data.labels.cpu()
        self.num_classes = data.num_classes
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(data.image_shape, padding=config.data.pad),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(data.mean, data.std),
            ]
        )
        self.grid = grid
        self.distinct = config.training.batch_size // config.data.repetition
        self.repetition = config.data.repetition
        self.method = METHODS[config.method.name].from_settings(config.method.model_dump())
        self.rng = np.random.default_rng(config.seed)
        self._shuffled = np.empty(0, dtype=np.int64)

    def next(self) -> PlainBatch:
        """The next batch, on the host."""
        first, second = self.indices()
        mask = self.masks(len(first))
        ratio = mask.mean((1, 2, 3))
        roots = ratio ** (1 / self.method.root), (1 - ratio) ** (1 / self.method.root)
        return PlainBatch(
            torch.stack([self.augmented(index) for index in first]),
            torch.stack([self.augmented(index) for index in second]),
            mask,
            (self.one_hot(first), self.one_hot(second)),
            (2 * roots[0] / (roots[0] + roots[1]), 2 * roots[1] / (roots[0] + roots[1])),
        )

    def indices(self) -> tuple[np.ndarray, np.ndarray]:
        """The images of both slots, int64 [B] each: every one of B / b images b times, in two orders."""
        if len(self._shuffled) < self.distinct:
            self._shuffled = self.rng.permutation(len(self.images))
        distinct, self._shuffled = self._shuffled[: self.distinct], self._shuffled[self.distinct :]
        repeated = distinct.repeat(self.repetition)
        return self.rng.permutation(repeated), self.rng.permutation(repeated)

    def masks(self, count: int) -> Tensor:
        """Float32 [B, 1, h, w]: rectangles with probability p for the whole batch, else constant."""
        kappas = self.rng.beta(self.method.alpha, self.method.alpha, count)
        if self.rng.random() >= self.method.probability:
            masks = np.stack([np.full(self.grid, kappa, dtype=np.float32) for kappa in kappas])
        else:
            masks = np.stack([self.rectangle(kappa) for kappa in kappas])
            if self.rng.random() < 0.5:
                masks = 1 - masks
        return torch.from_numpy(masks)[:, None]

    def rectangle(self, kappa: float) -> np.ndarray:
        """Float32 [h, w]: 1 in a rectangle of about ``kappa`` of the grid around a uniform centre, clipped."""
        height, width = self.grid
        half_height, half_width = int(height * kappa**0.5) // 2, int(width * kappa**0.5) // 2
        row, column = self.rng.integers(height), self.rng.integers(width)
        mask = np.zeros(self.grid, dtype=np.float32)
        mask[max(row - half_height, 0) : row + half_height, max(column - half_width, 0) : column + half_width] = 1
        return mask

    def augmented(self, index: int) -> Tensor:
        """One image, float32 [c, H, W]: padded, cropped at random, flipped with probability one half, normalised."""
        return self.transform(Image.fromarray(self.images[index].squeeze()))

    def one_hot(self, indices: np.ndarray) -> Tensor:
        """Float32 [B, K]."""
        return F.one_hot(self.labels[torch.from_numpy(indices)], self.num_classes).float()


class PlainCutMixMo(nn.Module):
    """Two stem convolutions, mixed; the backbone; two linear heads (thesis eq. 3.2)."""

    def __init__(self, backbone: str, num_classes: int, channels: int) -> None:
        super().__init__()
        self.core = build_backbone(backbone)
        stem = self.core.stem
        shape = {"kernel_size": stem.kernel_size, "stride": stem.stride, "padding": stem.padding, "bias": False}
        self.encoders = nn.ModuleList(nn.Conv2d(channels, stem.channels, **shape) for _ in range(2))
        self.heads = nn.ModuleList(nn.Linear(self.core.num_features, num_classes) for _ in range(2))

    def forward(self, first: Tensor, second: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The two heads' logits, [B, K] each."""
        mixed = 2 * (mask * self.encoders[0](first) + (1 - mask) * self.encoders[1](second))
        features = self.core(mixed).mean((2, 3))
        return self.heads[0](features), self.heads[1](features)


def soft_cross_entropy(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """The mean of the weighted cross-entropies with soft targets: logits and target [B, K], weight [B]."""
    return (weight * -(target * F.log_softmax(logits, dim=1)).sum(1)).mean()


def plain_loss(network: PlainCutMixMo, batch: PlainBatch) -> Tensor:
    """The sum of both heads' losses (thesis eq. 3.1)."""
    logits = network(batch.first, batch.second, batch.mask)
    first, second = (
        soft_cross_entropy(head_logits, target, weight)
        for head_logits, target, weight in zip(logits, batch.targets, batch.weights, strict=True)
    )
    return first + second


class PlainPipeline:
    """The straightforward loader by itself; see ``mixfast_bench.data.Pipeline``."""

    def __init__(self, name: str, config: Config, data: ImageSet) -> None:
        self.name = name
        self._device = data.images.device
        self._loader = PlainLoader(config, data, build_backbone(config.model.name).stem.grid(data.image_shape))
        batch = self._loader.next()
        self.floor_bytes = floor_bytes(batch.first) + floor_bytes(batch.second)

    def run(self, mark: Mark) -> None:
        self._loader.next().to(self._device)
        mark("data")


class PlainStep:
    """The straightforward training step; see ``mixfast_bench.step.TrainerStep``.

    Its ``flops`` are those of mixfast's network: what has to be computed, however it is written.
    """

    def __init__(self, name: str, config: Config, data: ImageSet) -> None:
        self.name = name
        network, method = build_network(config, data)
        self.flops = training_flops(network, method.visible_inputs(), data.image_shape, config.training.batch_size)
        self.result: Tensor | None = None
        self._device, self._amp = data.images.device, config.training.amp
        self._network = PlainCutMixMo(config.model.name, data.num_classes, data.channels).to(self._device)
        self._loader = PlainLoader(config, data, self._network.core.stem.grid(data.image_shape))
        settings = config.optimizer
        self._optimiser = torch.optim.SGD(
            self._network.parameters(),
            lr=config.learning_rate(),
            momentum=settings.momentum,
            nesterov=settings.nesterov,
            weight_decay=settings.weight_decay,
        )

    def run(self, mark: Mark) -> None:
        batch = self._loader.next().to(self._device)
        mark("data")
        with autocast(self._device, self._amp):
            loss = plain_loss(self._network, batch)
        loss.backward()
        mark("forward + backward")
        self._optimiser.step()
        self._optimiser.zero_grad()
        mark("optimiser")
        self.result = loss.detach()
