"""The cost of a recipe: its networks counted, the closed form beside, and the plain network to compare it with."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch

from mixfast.config import Config
from mixfast.config.sections import MethodSection
from mixfast.data import DataShape, Images, data_shape
from mixfast.flops.closed_form import Piece, Setup, closed_form
from mixfast.flops.counting import Cost, count
from mixfast.methods import Method, Network
from mixfast.recipes import load_recipe
from mixfast.training.session import build_network


@dataclass(frozen=True)
class Costed:
    """One recipe.

    Attributes:
        title: the recipe's name.
        setup: its numbers.
        cost: as counted, of one network.
        form: the closed form of the same.
        members: networks of a deep ensemble; 1 is no ensemble.
        disagreements: where count and form differ: the part, what, counted, computed. There should be none.
    """

    title: str
    setup: Setup
    cost: Cost
    form: dict[str, Piece]
    members: int = 1

    @property
    def disagreements(self) -> list[tuple[str, str, int, int]]:
        result = []
        for figure in Piece._fields:
            counted = getattr(self.cost, figure).parts
            computed = {part: getattr(piece, figure) for part, piece in self.form.items()}
            for part in {**counted, **computed}:
                pair = counted.get(part, 0), computed.get(part, 0)
                if pair[0] != pair[1]:
                    result.append((part, figure, *pair))
        return result


def shape_of(config: Config, num_classes: int | None = None) -> DataShape:
    """The shape of a configuration's data, without reading an image; raises as ``data_shape`` does."""
    data = config.data
    return data_shape(data.name, root=data.dir, image_size=data.image_size, num_classes=num_classes)


def network_of(config: Config, shape: Images | DataShape) -> tuple[Network, Method]:
    """One network of ``config`` on the meta device, and its method; raises as ``build_network`` does."""
    with torch.device("meta"):
        return build_network(config, shape)


def cost_of(config: Config, title: str, num_classes: int | None = None) -> Costed:
    """Counts one network of ``config`` and computes its closed form.

    Args:
        config: resolved.
        title: what to call it.
        num_classes: K, where the data set does not say it, or another one is meant.

    Raises:
        ValueError: backbone, method and data do not fit together, or the data's shape is not known.
    """
    shape = shape_of(config, num_classes)
    network, method = network_of(config, shape)
    cost = count(network, method.visible_inputs(), shape.image_shape, config.training.batch_size)
    setup = Setup(config.model, config.method, shape)
    return Costed(title, setup, cost, closed_form(setup), config.ensemble.members)


def single_of(config: Config, num_classes: int | None = None) -> Costed:
    """The same backbone with one input, at the same batch size."""
    plain = config.model_copy(update={"method": MethodSection()})
    return cost_of(plain, f"{config.model.name}, one input", num_classes)


@cache
def cost_of_recipe(name: str) -> Costed:
    """The cost of a recipe as it stands, counted once a process: the thesis's tables share their networks."""
    return cost_of(load_recipe(name), name)
