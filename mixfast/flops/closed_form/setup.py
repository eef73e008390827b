"""What a closed form depends on, and what it gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from mixfast.config.sections import MethodSection, ModelSection
from mixfast.data import DataShape


class Piece(NamedTuple):
    """The cost of a part: parameters; multiply-adds of inference for an image; of both passes of a step for a sample."""

    parameters: int = 0
    inference: int = 0
    forward: int = 0
    backward: int = 0

    def __add__(self, other: Piece) -> Piece:
        return Piece(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


@dataclass(frozen=True)
class Setup:
    """A network by its numbers: the sections of its configuration, and the shape of the data."""

    model: ModelSection
    method: MethodSection
    shape: DataShape

    @property
    def backbone(self) -> str:
        return self.model.name

    @property
    def inputs(self) -> int:
        """M."""
        return self.method.num_inputs

    @property
    def encoders(self) -> int:
        """How many encoders there are: one where it is shared, as MixViT's is."""
        return 1 if self.method.encoders == "shared" or self.is_mixvit else self.inputs

    @property
    def heads(self) -> int:
        """How many heads there are."""
        return 1 if self.method.heads == "shared" else self.inputs

    @property
    def is_mixvit(self) -> bool:
        return self.method.name.startswith("mixvit")

    @property
    def seen(self) -> int:
        """The most inputs that a position of a training mix shows (METHODS 1, the table of mixings)."""
        name, inputs = self.method.name, self.inputs
        if self.is_mixvit:
            return 1
        always_cut = name == "mixshare" or (
            name == "cut-mixmo" and self.method.probability == 1 and not self.method.anneal
        )
        return max(1, inputs - 1) if always_cut else inputs


def totals(form: Mapping[str, Piece]) -> Piece:
    """The whole network's."""
    return sum(form.values(), Piece())
