"""Section A.5.5: what MixMo adds to WRN-28-10."""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import nn

from mixfast.flops.costing import Costed, cost_of_recipe, network_of, shape_of
from mixfast.flops.tables.figure import Figure, ThesisTable
from mixfast.methods import Network
from mixfast.recipes import load_recipe

BILLION, MILLION = 10**9, 10**6
PLAIN, MIXMO = "cifar100-wrn28-10-vanilla", "cifar100-wrn28-10-cut-mixmo-b4"


def section_a55() -> ThesisTable:
    """Multiply-adds and parameters of the plain network and of MixMo with two inputs."""
    plain, mixmo = (cost_of_recipe(recipe) for recipe in (PLAIN, MIXMO))
    before, after = _operations(plain), _operations(mixmo)
    own = _operations(mixmo, own=True)
    weights = [costed.cost.parameters.total for costed in (plain, mixmo)]
    figures = [
        Figure("plain, G", "5.9565", Fraction(before, BILLION)),
        Figure("MixMo, M = 2, G", "5.9571", Fraction(after, BILLION), Fraction(own, BILLION)),
        Figure(
            "MixMo over plain, %",
            "+0.01",
            Fraction(100 * (after - before), before),
            Fraction(100 * (own - before), before),
        ),
        Figure("parameters, plain, M", "36.53", Fraction(weights[0], MILLION)),
        Figure("parameters, MixMo, M", "36.60", Fraction(weights[1], MILLION)),
        Figure("MixMo over plain, %", "+0.2", Fraction(100 * (weights[1] - weights[0]), weights[0])),
    ]
    notes = (
        "The thesis says flops and counts multiply-adds: twice as many would be 11.9 G.",
        "Its convention, found by trying: one for each term of a convolution or linear layer; two for each value that a batch "
        "norm reads (scale and shift); nothing for ReLU, pooling, biases and residual sums. Products alone: "
        f"{plain.cost.forward.total:,} and {mixmo.cost.forward.total:,}.",
        "MixMo has two first convolutions and heads, and one operation more for each value where the second encoding is added to "
        "the first (16,384): the text does not say so, but without them it is 5.957039, which rounds to 5.9570.",
        "mixfast sums the two encoders before it applies them, so inference costs one more head and nothing else.",
    )
    return ThesisTable("A.5.5", "WRN-28-10 on CIFAR-100", figures, 6, notes)


def _operations(costed: Costed, *, own: bool = False) -> int:
    """In the thesis's convention: as published every encoder is applied, as in mixfast's training; own: as its inference does."""
    config = load_recipe(costed.title)
    network, _ = network_of(config, shape_of(config))
    norms = 2 * normalised_values(network, costed.setup.shape.image_shape)
    if own:
        return costed.cost.inference.total + norms
    height, width = network.core.stem.grid(costed.setup.shape.image_shape)
    sums = (costed.setup.inputs - 1) * network.core.stem.channels * height * width
    return costed.cost.forward.total + norms + sums


def normalised_values(network: Network, image_shape: tuple[int, int]) -> int:
    """How many values the batch norms of a network on the meta device read for one image."""
    counts: list[int] = []
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(lambda _, inputs: counts.append(inputs[0].numel())) for norm in norms]
    with torch.no_grad():
        network.eval().predict(torch.empty(1, 3, *image_shape, device="meta"))
    for hook in hooks:
        hook.remove()
    return sum(counts)
