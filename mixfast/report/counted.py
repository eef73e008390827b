"""What networks cost, counted: from records of ``mixfast flops`` and from the configurations of runs, alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mixfast.flops.costing import Costed
from mixfast.report.measured import described_images
from mixfast.report.runs import Group


@dataclass(frozen=True)
class Counted:
    """A network's cost.

    Attributes:
        images: their size and classes, for people.
        inference: multiply-adds of an image's predictions.
        step: multiply-adds of a training step, for one sample.
        activations: bytes kept for a whole batch.
    """

    method: str
    backbone: str
    num_inputs: int
    members: int
    images: str
    batch_size: int
    inference: int
    step: int
    activations: int


def counted_of_record(record: dict[str, Any]) -> list[Counted]:
    """The recipes of a record of ``mixfast flops``."""
    return [
        Counted(
            recipe["method"],
            recipe["backbone"],
            recipe["num_inputs"],
            recipe["members"],
            described_images(recipe["image"][1:], recipe["classes"]),
            recipe["batch_size"],
            *(recipe["total"][figure] for figure in ("inference", "step", "activations")),
        )
        for recipe in record["recipes"]
    ]


def counted_of_runs(groups: Sequence[Group]) -> Iterator[Counted]:
    """The networks of runs, but for those that cannot be counted."""
    for group in groups:
        costed = group.cost
        if isinstance(costed, Costed):
            setup, cost, members = costed.setup, costed.cost, costed.members
            yield Counted(
                setup.method.name,
                setup.backbone,
                setup.inputs,
                members,
                described_images(setup.shape.image_shape, setup.shape.num_classes),
                cost.batch_size,
                members * cost.inference.total,
                members * cost.step,
                cost.activations.total,
            )
