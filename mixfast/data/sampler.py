"""Which images each step of an epoch takes, and which slot of which sample each goes to (METHODS section 7).

Shapes: B samples a batch, M inputs a sample, b repetitions, U = B / b distinct images a step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mixfast.data.randomness import random_keys

Views = Literal["independent", "shared"]
VIEWS: tuple[Views, ...] = ("independent", "shared")


@dataclass(frozen=True, eq=False)
class BatchPlan:
    """One step: augment the images at `images`, then slot m of sample k takes augmented image `slots[k, m]`.

    images  int64 [V] into the data set; an image stands here once for each augmented view it gets
    slots   int64 [B, M] into 0..V-1; `mask_mix_encode`'s `index`
    """

    images: Tensor
    slots: Tensor


@dataclass(frozen=True, eq=False)
class EpochPlan:
    """A whole epoch.

    images  int64 [steps, U]: the distinct data set indices of each step; no image is in two steps
    slots   int64 [steps, B, M] into 0..U-1: each of a step's U images fills exactly b places of every slot
    """

    images: Tensor
    slots: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, step: int, views: Views) -> BatchPlan:
        """Step `step`. Both kinds of views share one path downstream; they differ in what counts as an image.

        "shared": an image is augmented once and all its occurrences see that view (V = U), as in Google's MIMO.
        "independent": each occurrence in each slot is augmented by itself (V = B * M), as in MixMo.

        Raises ValueError for any other `views`.
        """
        images_U, slots_BM = self.images[step], self.slots[step]
        if views == "shared":
            return BatchPlan(images_U, slots_BM)
        if views == "independent":
            own_view = torch.arange(slots_BM.numel(), device=slots_BM.device).view_as(slots_BM)
            return BatchPlan(images_U[slots_BM.reshape(-1)], own_view)
        raise ValueError(f"views is {views!r}, expected one of: {', '.join(VIEWS)}")

    def to(self, device: torch.device | str) -> EpochPlan:
        """The same plan on `device`: one copy an epoch instead of one a step."""
        return EpochPlan(self.images.to(device), self.slots.to(device))


def plan_epoch(
    num_images: int,
    *,
    batch_size: int,
    num_inputs: int,
    repetition: int,
    input_repetition: float,
    seed: int,
    epoch: int,
) -> EpochPlan:
    """Draws epoch number `epoch`, on the CPU; a pure function of its arguments, so resuming needs no saved state.

    floor(num_images * repetition / batch_size) steps; what is left of the shuffled images sits out this epoch. In a
    step each of U = batch_size / repetition images stands b = repetition times in each slot, and the M slots are
    independent permutations: a sample may pair an image with itself. With input repetition q the first
    floor(q * batch_size) samples hold slot 0's image in every slot; the other samples' slots are permuted among
    themselves, so each image still stands exactly b times in each.

    Raises ValueError when repetition does not divide batch_size, when a batch needs more distinct images than there
    are, or when an argument is out of its range.
    """
    _check_arguments(num_images, batch_size, num_inputs, repetition, input_repetition)
    distinct = batch_size // repetition
    steps = num_images // distinct

    count_of_keys = num_images + steps * num_inputs * batch_size
    keys = random_keys((count_of_keys,), seed=seed, stream=epoch)
    image_keys, slot_keys = keys[:num_images], keys[num_images:].view(steps, num_inputs, batch_size)
    images = image_keys.argsort(stable=True)[: steps * distinct].view(steps, distinct)

    repeated = torch.arange(batch_size) // repetition
    slot_0 = repeated[slot_keys[:, :1].argsort(dim=2, stable=True)]
    # The other slots permute slot 0. Keys below every random one keep the repeated inputs where they are.
    paired_with_itself = repeated_inputs(batch_size, input_repetition)
    slot_keys[:, 1:, :paired_with_itself] = torch.arange(-paired_with_itself, 0)
    others = slot_0.expand(-1, num_inputs - 1, -1).gather(2, slot_keys[:, 1:].argsort(dim=2, stable=True))
    slots = torch.cat((slot_0, others), dim=1).transpose(1, 2).contiguous()
    return EpochPlan(images, slots)


def repeated_inputs(batch_size: int, input_repetition: float) -> int:
    """floor(q * batch_size), where a product that only rounding keeps below an integer (0.29 * 100) counts as it."""
    return int(input_repetition * batch_size + 1e-9)


def _check_arguments(
    num_images: int, batch_size: int, num_inputs: int, repetition: int, input_repetition: float
) -> None:
    for argument, value in (("batch_size", batch_size), ("num_inputs", num_inputs), ("repetition", repetition)):
        if value < 1:
            raise ValueError(f"{argument} is {value}, expected at least 1")
    if not 0 <= input_repetition <= 1:
        raise ValueError(f"input_repetition is {input_repetition}, expected a number in 0..1")
    if batch_size % repetition:
        below = batch_size // repetition * repetition
        works = f"{below} or {below + repetition}" if below else f"{repetition}"
        raise ValueError(
            f"batch_size {batch_size} is not divisible by repetition {repetition}: "
            f"the nearest batch size that works is {works}"
        )
    if num_images < batch_size // repetition:
        raise ValueError(
            f"a batch of {batch_size} with repetition {repetition} takes {batch_size // repetition} distinct images, "
            f"but the data set has only {num_images}; give a smaller batch_size"
        )
