"""Which images each step of an epoch takes, and which slot of which sample each goes to (METHODS section 7).

Shapes: B samples a batch, M inputs a sample, b repetitions, U = B / b distinct images a step, G groups of images.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from mixfast.data.kept import Kept
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
class BatchPart:
    """One process's samples of a batch.

    rows   B' of the B samples
    views  those of the batch's V views that the process makes, V' of them
    slots  int64 [B', M] into 0..V'-1: as `BatchPlan.slots`, of these samples into these views
    """

    rows: Kept
    views: Kept
    slots: Tensor


@dataclass(frozen=True, eq=False)
class EpochPlan:
    """A whole epoch.

    images  int64 [steps, U]: the distinct data set indices of each step; no image is in two steps
    slots   int64 [steps, B, M] into 0..U-1: each of a step's U images fills exactly b places of every slot
    groups  G: samples g * B / G and on, B / G of them, show images g * U / G and on, U / G of them, and no others
    order   int64 [steps, B], on the CPU wherever the rest is: the samples, those that show image 0 in slot 0 first
    """

    images: Tensor
    slots: Tensor
    groups: int
    order: Tensor

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

    def part(self, step: int, views: Views, rank: int, count: int) -> BatchPart:
        """The samples of step `step` that process `rank` of `count` makes; together the processes make each once.

        They are those that show the rank's U / count images in slot 0, so an image's b samples stay in one process. Where
        `count` divides the groups the other slots show these images too, and no process needs another's.

        Raises ValueError when `count` does not divide U.
        """
        distinct, (samples, inputs) = self.images.shape[1], self.slots.shape[1:]
        if distinct % count:
            raise ValueError(f"{count} processes cannot share {distinct} distinct images of a batch equally")
        device = self.slots.device
        rows = Kept.of(self.order[step].view(count, -1)[rank], samples, device)
        if views == "independent":
            own_view = torch.arange(len(rows.host) * inputs, device=device).view(-1, inputs)
            return BatchPart(rows, rows.each(inputs), own_view)
        first, last = rank * distinct // count, (rank + 1) * distinct // count
        if inputs > 1 and self.groups % count:
            # The other slots show images of other processes too. All are made: as many in every step.
            first, last = 0, distinct
        made = Kept.of(torch.arange(first, last), distinct, device)
        return BatchPart(rows, made, self.slots[step][rows.device] - first)

    def to(self, device: torch.device | str) -> EpochPlan:
        """The same plan on `device`: one copy an epoch instead of one a step."""
        return replace(self, images=self.images.to(device), slots=self.slots.to(device))


def plan_epoch(
    num_images: int,
    *,
    batch_size: int,
    num_inputs: int,
    repetition: int,
    input_repetition: float,
    groups: int = 1,
    seed: int,
    epoch: int,
) -> EpochPlan:
    """Draws epoch number `epoch`, on the CPU; a pure function of its arguments, so resuming needs no saved state.

    floor(num_images * repetition / batch_size) steps; what is left of the shuffled images sits out this epoch. In a
    step each of U = batch_size / repetition images stands b = repetition times in each slot, and the M slots are
    independent permutations: a sample may pair an image with itself. With input repetition q the first
    floor(q * batch_size) samples hold slot 0's image in every slot; the other samples' slots are permuted among
    themselves, so each image still stands exactly b times in each. With more than one group all this is done in each
    group of U / groups images and batch_size / groups samples by itself.

    Raises ValueError when repetition does not divide batch_size or groups do not divide the distinct images, when a batch
    needs more distinct images than there are, or when an argument is out of its range.
    """
    _check_arguments(num_images, batch_size, num_inputs, repetition, input_repetition, groups)
    distinct, group_size = batch_size // repetition, batch_size // groups
    steps = num_images // distinct

    count_of_keys = num_images + steps * num_inputs * batch_size
    keys = random_keys((count_of_keys,), seed=seed, stream=epoch)
    image_keys, slot_keys = keys[:num_images], keys[num_images:].view(steps, num_inputs, groups, group_size)
    images = image_keys.argsort(stable=True)[: steps * distinct].view(steps, distinct)

    first_of_group = torch.arange(0, distinct, distinct // groups)[:, None]
    slot_0 = first_of_group + slot_keys[:, :1].argsort(dim=3, stable=True) // repetition
    # The other slots permute slot 0. Keys below every random one keep the repeated inputs where they are.
    paired_with_itself = repeated_inputs(group_size, input_repetition)
    slot_keys[:, 1:, :, :paired_with_itself] = torch.arange(-paired_with_itself, 0)
    others = slot_0.expand(-1, num_inputs - 1, -1, -1).gather(3, slot_keys[:, 1:].argsort(dim=3, stable=True))
    slots = torch.cat((slot_0, others), dim=1).flatten(2).transpose(1, 2).contiguous()
    return EpochPlan(images, slots, groups, slots[:, :, 0].argsort(dim=1, stable=True))


def repeated_inputs(batch_size: int, input_repetition: float) -> int:
    """floor(q * batch_size), where a product that only rounding keeps below an integer (0.29 * 100) counts as it."""
    return int(input_repetition * batch_size + 1e-9)


def _check_arguments(
    num_images: int, batch_size: int, num_inputs: int, repetition: int, input_repetition: float, groups: int
) -> None:
    counts = {"batch_size": batch_size, "num_inputs": num_inputs, "repetition": repetition, "groups": groups}
    for argument, value in counts.items():
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
    if batch_size // repetition % groups:
        raise ValueError(
            f"groups is {groups}, which does not divide {batch_size // repetition} distinct images a batch"
        )
    if num_images < batch_size // repetition:
        raise ValueError(
            f"a batch of {batch_size} with repetition {repetition} takes {batch_size // repetition} distinct images, "
            f"but the data set has only {num_images}; give a smaller batch_size"
        )
