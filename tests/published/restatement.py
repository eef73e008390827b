"""MixMo and MixShare as a person would write them from METHODS 7 and algorithms A.6 and A.7: slow, plain, float64.

Loops over samples, dense float masks, a convolution for every input, one-hot soft targets, an optimiser step spelt out.
Imports nothing of mixfast, and its networks have the published state names, so weights go over by name.

Legend: B samples, M inputs, K classes. ``masks[b][i]`` is ``[h, w]``: how much of input i sample b shows where.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

# ------------------------------------------------------------------------------------------------------ networks


class WideBlock(nn.Module):
    """Stride on the second convolution, padded on the right and bottom only; the shortcut reads the raw input."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, stride=stride, padding=1 if stride == 1 else 0, bias=False)
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False))
        else:
            self.shortcut = nn.Sequential()

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(torch.relu(self.bn1(x)))
        out = torch.relu(self.bn2(out))
        if self.stride == 2:
            out = F.pad(out, (0, 1, 0, 1))
        return self.conv2(out) + self.shortcut(x)


class PreActBlock(nn.Module):
    """Stride on the first convolution; the shortcut's projection reads the activated input."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        activated = torch.relu(self.bn1(x))
        kept = self.shortcut(activated) if hasattr(self, "shortcut") else x
        return self.conv2(torch.relu(self.bn2(self.conv1(activated)))) + kept


class PublishedNetwork(nn.Module):
    """M first convolutions, layers 1 to 3 or 4, M dense layers, under the published state names; in float64."""

    stem_channels: int
    stem_stride: int

    def __init__(
        self, block: type[nn.Module], channels: Sequence[int], depth: int, sizes: tuple[int, int, int]
    ) -> None:
        """``depth`` blocks a layer; ``sizes``: how many first convolutions, dense layers and classes."""
        super().__init__()
        num_encoders, num_heads, num_classes = sizes
        self.list_conv1 = nn.ModuleList(
            nn.Conv2d(3, self.stem_channels, 3, stride=self.stem_stride, padding=1, bias=False)
            for _ in range(num_encoders)
        )
        before = self.stem_channels
        for number, after in enumerate(channels, start=1):
            stride = 1 if number == 1 else 2
            blocks = [block(before if k == 0 else after, after, stride if k == 0 else 1) for k in range(depth)]
            setattr(self, f"layer{number}", nn.Sequential(*blocks))
            before = after
        self.num_layers = len(channels)
        self.list_fc = nn.ModuleList(nn.Linear(before, num_classes) for _ in range(num_heads))
        self.double()

    def encode(self, slot: int, image: Tensor) -> Tensor:
        """One image ``[3, H, W]`` through the convolution of its slot (the only one, if there is one for all)."""
        return self.list_conv1[min(slot, len(self.list_conv1) - 1)](image[None])[0]

    def end(self, features: Tensor) -> Tensor:
        """From the last layer's output to the features that are pooled."""
        raise AssertionError("each network has its own")

    def features(self, mixed: Tensor, between: dict[int, tuple[Tensor, Tensor]] | None = None) -> Tensor:
        """The core network. ``between[d]``: (partners, shares) of a Manifold MixUp before layer d, from 1."""
        out = mixed
        for number in range(1, self.num_layers + 1):
            if between and number in between:
                out = interpolate(out, *between[number])
            out = getattr(self, f"layer{number}")(out)
        return self.end(out)

    def classify(self, pooled: Tensor, head: int) -> Tensor:
        """``[B, F]`` to the logits ``[B, K]`` of one head (the only one, if there is one for all)."""
        return self.list_fc[min(head, len(self.list_fc) - 1)](pooled)


class PublishedWideResNet(PublishedNetwork):
    """WRN-depth-width."""

    stem_channels, stem_stride = 16, 1

    def __init__(self, depth: int, width: int, sizes: tuple[int, int, int]) -> None:
        super().__init__(WideBlock, [16 * width, 32 * width, 64 * width], (depth - 4) // 6, sizes)
        self.bn1 = nn.BatchNorm2d(64 * width).double()

    def end(self, features: Tensor) -> Tensor:
        return torch.relu(self.bn1(features))


class PublishedPreActResNet18(PublishedNetwork):
    """PreActResNet-18 for images of 64 x 64; ``channels`` of its four layers."""

    stem_channels, stem_stride = 64, 2

    def __init__(self, channels: Sequence[int], sizes: tuple[int, int, int]) -> None:
        super().__init__(PreActBlock, channels, 2, sizes)

    def end(self, features: Tensor) -> Tensor:
        assert features.shape[2:] == (4, 4)  # what the published 4x4 pool takes
        return features


def interpolate(batch: Tensor, partners: Tensor, shares: Tensor) -> Tensor:
    """MixUp inside a batch."""
    rows = []
    for b in range(len(batch)):
        rows.append(shares[b] * batch[b] + (1 - shares[b]) * batch[partners[b]])
    return torch.stack(rows)


# -------------------------------------------------------------------------------------------- mixing and unmixing


def dense_masks(
    inside: Sequence[Sequence[float]],
    outside: Sequence[Sequence[float]],
    grid: tuple[int, int],
    boxes: Sequence[Sequence[int]] | None = None,
    bitmaps: np.ndarray | None = None,
) -> list[list[Tensor]]:
    """Float masks of every input of every sample: its outside weight, and in the zone its inside weight."""
    masks = []
    for b in range(len(inside)):
        of_sample = []
        for i in range(len(inside[b])):
            mask = torch.full(grid, float(outside[b][i]), dtype=torch.float64)
            if boxes is not None:
                top, left, bottom, right = boxes[b]
                mask[top:bottom, left:right] = float(inside[b][i])
            elif bitmaps is not None:
                mask[torch.as_tensor(bitmaps[b], dtype=torch.bool)] = float(inside[b][i])
            of_sample.append(mask)
        masks.append(of_sample)
    return masks


def legal_boxes(side: int) -> set[tuple[int, int, int, int]]:
    """All rectangles that a square of some half side around some centre becomes, clipped to the grid."""
    boxes = set()
    for half in range(side // 2 + 1):
        for y in range(side):
            for x in range(side):
                boxes.add((max(y - half, 0), max(x - half, 0), min(y + half, side), min(x + half, side)))
    return boxes | {(0, 0, 0, 0)}


def mixing_block(network: PublishedNetwork, images: Sequence[Sequence[Tensor]], masks: list[list[Tensor]]) -> Tensor:
    """``M * sum_i mask_i * c_i(x_i)``, sample by sample (eq. 3.2, A.3, A.4)."""
    rows = []
    for of_sample, shown in zip(images, masks, strict=True):
        total = torch.zeros((), dtype=torch.float64)
        for i, (image, mask) in enumerate(zip(of_sample, shown, strict=True)):
            total = total + mask * network.encode(i, image)
        rows.append(len(of_sample) * total)
    return torch.stack(rows)


def shrunk(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """The mean of the mask over each cell of a coarser grid that divides its own."""
    tall, wide = mask.shape[0] // size[0], mask.shape[1] // size[1]
    out = torch.zeros(size, dtype=mask.dtype)
    for y in range(size[0]):
        for x in range(size[1]):
            out[y, x] = mask[y * tall : (y + 1) * tall, x * wide : (x + 1) * wide].mean()
    return out


def unmixed_pool(features: Tensor, masks: list[list[Tensor]], slot: int, fade: float, channels: int) -> Tensor:
    """Algorithm A.7 with fadeout and partial unmixing (3.4.2.3), for one slot: ``[B, F, h, w]`` to ``[B, F]``."""
    rows = []
    for b in range(len(features)):
        mask = shrunk(masks[b][slot], tuple(features.shape[2:]))
        mask = mask + fade * (1 - mask)
        pooled = [
            ((mask if channel < channels else torch.ones_like(mask)) * features[b, channel]).mean()
            for channel in range(features.shape[1])
        ]
        rows.append(torch.stack(pooled))
    return torch.stack(rows)


def forward(
    network: PublishedNetwork,
    images: Sequence[Sequence[Tensor]],
    masks: list[list[Tensor]],
    *,
    unmixed_channels: int = 0,
    fade: float = 0.0,
    between: dict[int, tuple[Tensor, Tensor]] | None = None,
) -> list[Tensor]:
    """The logits ``[B, K]`` of every head in training."""
    features = network.features(mixing_block(network, images, masks), between)
    logits = []
    for slot in range(len(images[0])):
        pooled = features.mean((2, 3))
        if unmixed_channels:
            pooled = unmixed_pool(features, masks, slot, fade, unmixed_channels)
        logits.append(network.classify(pooled, slot))
    return logits


def inference(network: PublishedNetwork, images: Tensor, num_inputs: int) -> list[Tensor]:
    """Every slot takes the same image, the encodings are summed; the logits ``[B, K]`` of every head."""
    rows = []
    for image in images:
        rows.append(torch.stack([network.encode(i, image) for i in range(num_inputs)]).sum(0))
    pooled = network.features(torch.stack(rows)).mean((2, 3))
    return [network.classify(pooled, head) for head in range(len(network.list_fc))]


# ----------------------------------------------------------------------------------------------------------- loss


def ratios_of(masks: list[list[Tensor]]) -> list[list[float]]:
    """kappa: each mask's mean."""
    return [[float(mask.mean()) for mask in of_sample] for of_sample in masks]


def head_weights(ratios: Sequence[float], root: float) -> list[float]:
    """Eq. A.2 for one sample; an input that isn't seen has weight 0."""
    powers = [ratio ** (1 / root) if ratio > 0 else 0.0 for ratio in ratios]
    return [len(ratios) * power / sum(powers) for power in powers]


def soft_target(num_classes: int, label: int, other: int | None = None, share: float = 1.0) -> Tensor:
    """One-hot, or the two-label target of CutMix and MixUp."""
    target = torch.zeros(num_classes, dtype=torch.float64)
    target[label] += share
    if other is not None:
        target[other] += 1 - share
    return target


def soft_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    return -(target * torch.log_softmax(logits, dim=0)).sum()


def head_losses(logits: list[Tensor], targets: list[list[Tensor]], weights: list[list[float]]) -> list[Tensor]:
    """Each head's loss, averaged over the batch; their sum is trained on. ``targets[b][i]``, ``weights[b][i]``."""
    batch = len(targets)
    losses = []
    for head in range(len(logits)):
        total = torch.zeros((), dtype=torch.float64)
        for b in range(batch):
            total = total + weights[b][head] * soft_cross_entropy(logits[head][b], targets[b][head])
        losses.append(total / batch)
    return losses


def l2_penalty(parameters: Iterable[Tensor], strength: float) -> Tensor:
    """``strength * sum p^2`` over all parameters, norms and biases too."""
    total = torch.zeros((), dtype=torch.float64)
    for parameter in parameters:
        total = total + strength * (parameter**2).sum()
    return total


# ------------------------------------------------------------------------------------------ optimiser and schedules


class NesterovSGD:
    """SGD with Nesterov momentum, one tensor at a time."""

    def __init__(self, parameters: Iterable[nn.Parameter], momentum: float, weight_decay: float) -> None:
        self.parameters = list(parameters)
        self.momentum, self.weight_decay = momentum, weight_decay
        self.velocity = [torch.zeros_like(parameter) for parameter in self.parameters]

    @torch.no_grad()
    def step(self, rate: float) -> None:
        for parameter, velocity in zip(self.parameters, self.velocity, strict=True):
            gradient = parameter.grad + self.weight_decay * parameter
            velocity.mul_(self.momentum).add_(gradient)
            parameter -= rate * (gradient + self.momentum * velocity)
            parameter.grad = None


def learning_rate(base: float, epoch: int, step: int, steps_per_epoch: int, drops_at_start_of: Sequence[int]) -> float:
    """Of a step and an epoch, both from 1: a linear warm-up over the first epoch's steps, then drops."""
    if epoch == 1:
        return base * step / steps_per_epoch
    for drop in drops_at_start_of:
        if epoch >= drop:
            base = base / 10
    return base


def patch_probability(probability: float, epoch: int, epochs: int) -> float:
    """p_e of algorithm A.6."""
    if epoch > 11 / 12 * epochs:
        return probability * (epochs - epoch) / (1 / 12 * epochs)
    return probability


# ----------------------------------------------------------------------------------------------------- augmentation


def normalised(pixels: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """Pixels ``[..., c, H, W]`` in 0..255 to what a network reads."""
    return (pixels / 255 - np.reshape(mean, (-1, 1, 1))) / np.reshape(std, (-1, 1, 1))


def denormalised(view: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """The way back, to 0..255."""
    return (view * np.reshape(std, (-1, 1, 1)) + np.reshape(mean, (-1, 1, 1))) * 255


def legal_views(image: np.ndarray, pad: int, flip: bool) -> np.ndarray:
    """All that padding with black, cropping and flipping can make of an image ``[c, H, W]``: ``[V, c, H, W]``."""
    height, width = image.shape[1:]
    padded = np.pad(image, ((0, 0), (pad, pad), (pad, pad)))
    views = []
    for top in range(2 * pad + 1):
        for left in range(2 * pad + 1):
            window = padded[:, top : top + height, left : left + width]
            views += [window, window[:, :, ::-1]] if flip else [window]
    return np.stack(views)


def is_rectangle(mask: np.ndarray, undecided: np.ndarray) -> bool:
    """Whether a bool mask ``[H, W]`` is a rectangle, for some choice of the undecided positions (and perhaps empty)."""
    rows, columns = np.nonzero(mask & ~undecided)
    if len(rows) == 0:
        return True
    hull = np.zeros_like(mask)
    hull[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
    return bool((mask | undecided)[hull].all())


def visible_share(main: np.ndarray, shown: np.ndarray) -> float:
    """``sum(m * M) / sum(M)``: the share of a slot's visible pixels that are the main image's (A.1.3.1)."""
    total = visible = 0.0
    for y in range(main.shape[0]):
        for x in range(main.shape[1]):
            total += shown[y, x]
            visible += main[y, x] * shown[y, x]
    return visible / total if total > 0 else math.nan
