"""A validation split held out of the training split."""

from __future__ import annotations

import torch

from mixfast.data.errors import DataError
from mixfast.data.image_set import ImageSet
from mixfast.data.randomness import HOLDOUT_STREAM, random_keys


def validation_split(image_set: ImageSet, fraction: float, seed: int) -> tuple[ImageSet, ImageSet]:
    """Splits `image_set` into (train, validation): disjoint, together everything, each in the original order.

    Stratified: of a class with n images exactly min(floor(fraction * n + 1/2), n - 1) are held out, so every class
    keeps at least one training image. Which ones depends on (seed, n and order of the images) only. Both parts keep
    the mean and std of the whole training split.

    Raises ValueError unless 0 < fraction < 1; DataError when that would hold out no image at all.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction is {fraction}, expected a number between 0 and 1, both excluded")
    labels = image_set.labels.cpu()
    keys = random_keys((len(labels),), seed=seed, stream=HOLDOUT_STREAM)
    shuffled = keys.argsort(stable=True)
    by_class = shuffled[labels[shuffled].argsort(stable=True)]  # grouped by class, in random order within each

    class_sizes = torch.bincount(labels, minlength=image_set.num_classes)
    held_out_sizes = (fraction * class_sizes.double() + 0.5).floor().long()
    held_out_sizes = torch.minimum(held_out_sizes, (class_sizes - 1).clamp(min=0))
    class_starts = class_sizes.cumsum(0) - class_sizes
    rank_in_class = torch.arange(len(labels)) - class_starts[labels[by_class]]

    held_out = torch.zeros(len(labels), dtype=torch.bool)
    held_out[by_class] = rank_in_class < held_out_sizes[labels[by_class]]
    if not held_out.any():
        raise DataError(
            f"{image_set.name}: holding out {fraction} of {len(labels)} images in {image_set.num_classes} classes "
            "leaves no validation image; give a larger fraction"
        )
    device = image_set.labels.device
    train = image_set.subset((~held_out).nonzero().flatten().to(device), image_set.split)
    validation = image_set.subset(held_out.nonzero().flatten().to(device), "validation")
    return train, validation
