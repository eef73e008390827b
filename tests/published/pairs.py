"""Our pieces beside the restatement: the same weights and the same drawn mix, in both forms."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import replace

import torch
from mixfast_kernels import Mixing
from restatement import (
    PublishedNetwork,
    PublishedPreActResNet18,
    PublishedWideResNet,
    dense_masks,
    head_weights,
    ratios_of,
    soft_target,
)
from torch import Tensor, nn

from mixfast.config import Config
from mixfast.methods import MultiInputNetwork
from mixfast.models import mixmo_state_dict
from mixfast.recipes import load_recipe
from mixfast.training.feed import Batch


def published_state(network: nn.Module) -> dict[str, Tensor]:
    """Our state under the restatement's names, which number a single convolution or classifier too."""
    return {re.sub(r"^(conv1|fc)\.", r"list_\1.0.", name): value for name, value in mixmo_state_dict(network).items()}


def published_gradients(network: nn.Module) -> dict[str, Tensor]:
    """Our gradients under the restatement's names."""
    with torch.no_grad():
        holder = copy.deepcopy(network)
        for ours, theirs in zip(holder.parameters(), network.parameters(), strict=True):
            ours.copy_(theirs.grad)
    state = published_state(holder)
    return {name: state[name] for name in state if "running" not in name and "num_batches" not in name}


def published_twin(model: str, network: MultiInputNetwork) -> PublishedNetwork:
    """The restated network with the weights of ours, in float64."""
    sizes = (len(network.encoder.weight), len(network.heads.weight), network.heads.weight.shape[1])
    if model.startswith("wrn"):
        depth, width = (int(number) for number in re.findall(r"\d+", model))
        twin = PublishedWideResNet(depth, width, sizes)
    else:
        twin = PublishedPreActResNet18([stage[-1].conv2.out_channels for stage in network.core.stages], sizes)
    twin.load_state_dict(published_state(network), strict=True)
    return twin.train(network.training)


def masks_of(mixing: Mixing) -> list[list[Tensor]]:
    return dense_masks(
        mixing.inside.tolist(),
        mixing.outside.tolist(),
        mixing.grid,
        None if mixing.box is None else mixing.box.tolist(),
        None if mixing.bitmap is None else mixing.bitmap.numpy(),
    )


def mixing_in_double(mixing: Mixing) -> Mixing:
    """What was drawn in float32, as float64 numbers of exactly the same value."""
    return replace(mixing, inside=mixing.inside.double(), outside=mixing.outside.double())


def in_double(batch: Batch) -> Batch:
    return replace(
        batch,
        images=batch.images.double(),
        mixing=mixing_in_double(batch.mixing),
        weight=batch.weight.double(),
        share=None if batch.share is None else batch.share.double(),
    )


def images_of(batch: Batch) -> list[list[Tensor]]:
    return [[batch.images[view] for view in of_sample] for of_sample in batch.index.tolist()]


def soft_targets_of(batch: Batch, num_classes: int) -> list[list[Tensor]]:
    targets = []
    for b, labels in enumerate(batch.target.tolist()):
        others = [None] * len(labels) if batch.other is None else batch.other[b].tolist()
        shares = [1.0] * len(labels) if batch.share is None else batch.share[b].tolist()
        targets.append([soft_target(num_classes, *each) for each in zip(labels, others, shares, strict=True)])
    return targets


def restated_weights(method: str, root: float, shared_head: bool, masks: list[list[Tensor]]) -> list[list[float]]:
    """The loss weights that METHODS gives each method, from the masks alone."""
    if method in ("single", "mimo"):
        return [[1.0] * len(of_sample) for of_sample in masks]
    if shared_head:  # labels in proportion
        return ratios_of(masks)
    return [head_weights(ratios, root) for ratios in ratios_of(masks)]


def recipe_with(name: str, overrides: Sequence[str] = ()) -> Config:
    return load_recipe(name, ["training.device=cpu", "training.compile=off", *overrides])
