"""A recipe's cost beside that of its single-input backbone: what the command shows, and its record as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mixfast.flops.costing import Costed
from mixfast.flops.counting import Cost
from mixfast.flops.prediction import Prediction
from mixfast.flops.tables import ThesisTable
from mixfast.records import FLOPS, FLOPS_VERSION

CONVENTION = (
    "A multiply-add is one term of a matrix product or convolution; torch's FLOPs are two. Sums, norms, activations, softmaxes, "
    "products of weights with weights, which are done once a batch, and the optimiser are left out.",
    "Inference: predictions of all subnetworks for one image. A training step: forward and backward pass for one sample of M "
    "inputs, with as many encoders as a drawn mix can show at a position; what a backward pass takes anew counts again.",
    "Kept: what autograd saves for the backward pass of a whole batch, in float32, eager; memory shared by several tensors "
    "counts once, for the first part that saves it; weights and the batch itself are left out.",
)


@dataclass(frozen=True)
class Compared:
    """A recipe and the plain network over the same backbone, at the same batch size; predictions where they were asked for."""

    recipe: Costed
    single: Costed
    predictions: Sequence[Prediction] = ()

    @property
    def figures(self) -> dict[str, int]:
        """The recipe's totals."""
        return _totals(self.recipe.cost, self.recipe.members)

    @property
    def ratios(self) -> dict[str, float]:
        """Each figure over the single-input network's."""
        single = _totals(self.single.cost, members=1)
        return {name: value / single[name] for name, value in self.figures.items()}

    def to_dict(self) -> dict[str, Any]:
        """For JSON: totals, and parts of one network."""
        setup = self.recipe.setup
        return {
            "recipe": self.recipe.title,
            "backbone": setup.backbone,
            "method": setup.method.name,
            "num_inputs": setup.inputs,
            "members": self.recipe.members,
            "image": [setup.shape.channels, *setup.shape.image_shape],
            "classes": setup.shape.num_classes,
            "batch_size": self.recipe.cost.batch_size,
            "total": self.figures,
            "over_single": self.ratios,
            "predictions": [each.to_dict() for each in self.predictions],
            "parts": _parts(self.recipe),
            "single_parts": _parts(self.single),
            "closed_form_agrees": not self.recipe.disagreements and not self.single.disagreements,
            "disagreements": [list(line) for line in (*self.recipe.disagreements, *self.single.disagreements)],
        }


def record_of(compared: Sequence[Compared], tables: Sequence[ThesisTable]) -> dict[str, Any]:
    """Everything that the command shows."""
    return {
        "version": FLOPS_VERSION,
        "kind": FLOPS,
        "torch": torch.__version__,
        "convention": list(CONVENTION),
        "recipes": [each.to_dict() for each in compared],
        "tables": [table.to_dict() for table in tables],
    }


def _totals(cost: Cost, members: int) -> dict[str, int]:
    """Of a deep ensemble those of all members, but for what is kept: they are trained in turn."""
    return {
        "parameters": members * cost.parameters.total,
        "inference": members * cost.inference.total,
        "step": members * cost.step,
        "activations": cost.activations.total,
    }


def _parts(costed: Costed) -> dict[str, dict[str, int]]:
    names = ("parameters", "inference", "forward", "backward", "activations")
    return {name: dict(getattr(costed.cost, name).parts) for name in names}
