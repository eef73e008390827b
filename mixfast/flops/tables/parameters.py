"""The columns that print numbers of parameters: tables A.17, 3.5 and 4.3."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

from mixfast.flops.costing import network_of, shape_of
from mixfast.flops.tables.figure import Figure, ThesisTable
from mixfast.recipes import load_recipe

MILLION = 1_000_000

# Of one network, two networks, MixMo and two MixMos, by width.
A17 = {
    2: ("1.48M", "2.95M", "1.49M", "2.99M"),
    3: ("3.31M", "6.62M", "3.33M", "6.66M"),
    4: ("5.87M", "11.74M", "5.89M", "11.79M"),
    5: ("9.16M", "18.32M", "9.19M", "18.39M"),
    7: ("17.92M", "35.85M", "17.97M", "35.94M"),
    10: ("36.53M", "73.07M", "36.60M", "73.21M"),
    14: ("71.55M", "143.1M", "71.64M", "143.28M"),
}
A17_COLUMNS = {
    "1-Net": "vanilla",
    "2-Nets": "vanilla-ensemble2",
    "MixMo": "cut-mixmo-b4",
    "2-Cut-MixMos": "cut-mixmo-b4-ensemble2",
}
MISPRINTS = {
    (
        "2-Cut-MixMos",
        10,
    ): "twice the 36,601,416 of the column before is 73,202,832: neither rounds to 73.21 nor is cut to it, a "
    "slip in the last digit"
}
TITLES = {"vanilla": "plain", "cut-mixmo-b2": "MixMo"}
# Table 3.5 prints one number a width.
T35 = {1: ("vanilla", "11.2M"), 2: ("cut-mixmo-b2", "44.9M"), 3: ("vanilla", "100.5M")}
T43 = (
    ("ResNet 18, single", "tiny-imagenet-preact-resnet18-1-vanilla", "11M"),
    ("ResNet 18, MixMo", "tiny-imagenet-preact-resnet18-1-cut-mixmo-b2", "11M"),
    ("ResNet 18-3, single", "tiny-imagenet-preact-resnet18-3-vanilla", "100M"),
    ("ResNet 18-3, MixMo", "tiny-imagenet-preact-resnet18-3-cut-mixmo-b2", "100M"),
    ("CaiT XS-24, single", "vit-tiny-imagenet-cait-xs24-vanilla", "26M"),
    (
        "CaiT XS-24, MixViT-embedding",
        "vit-tiny-imagenet-cait-xs24-mixvit-embedding-twice-decay-twice-depth",
        "26M",
    ),
    (
        "CaiT XS-24, MixViT-encoding",
        "vit-tiny-imagenet-cait-xs24-mixvit-encoding-twice-decay-twice-depth",
        "26M",
    ),
)


def table_a17() -> ThesisTable:
    """Seven widths of four columns."""
    notes = (
        "Parameters of the networks themselves, all members of an ensemble. The thesis rounds some of them and cuts others off.",
    )
    return ThesisTable("A.17", "parameters of WRN-28-w on CIFAR-100, in millions", list(_a17()), 6, notes)


def table_35() -> ThesisTable:
    """Three widths."""
    figures = [
        _figure(f"w = {width}, {TITLES[method]}", f"tiny-imagenet-preact-resnet18-{width}-{method}", printed)
        for width, (method, printed) in T35.items()
    ]
    notes = (
        "One number is printed for all methods of a width: with w = 2 it is MixMo's (the plain network has 44.78M), else the plain "
        "network's.",
    )
    return ThesisTable("3.5", "parameters of PreActResNet-18-w on Tiny ImageNet, in millions", figures, 6, notes)


def table_43() -> ThesisTable:
    """Convolutional networks and CaiT."""
    figures = [_figure(*row) for row in T43]
    return ThesisTable("4.3", "parameters on Tiny ImageNet, in millions", figures, 6)


def parameters_of(recipe: str) -> int:
    """Of the networks of a recipe, all members of an ensemble."""
    config = load_recipe(recipe)
    network, _ = network_of(config, shape_of(config))
    return config.ensemble.members * sum(parameter.numel() for parameter in network.parameters())


def _a17() -> Iterator[Figure]:
    for width, printed in A17.items():
        for (column, method), text in zip(A17_COLUMNS.items(), printed, strict=True):
            why = MISPRINTS.get((column, width), "")
            yield _figure(f"w = {width}, {column}", f"cifar100-wrn28-{width}-{method}", text, why)


def _figure(row: str, recipe: str, printed: str, why: str = "") -> Figure:
    return Figure(row, printed, Fraction(parameters_of(recipe), MILLION), why=why)
