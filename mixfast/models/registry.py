"""Backbones by name: a family's pattern with its numbers filled in, such as wrn28-10 or convit384-5."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import product

import torch

from mixfast.models.architectures import CAIT, CONVIT_HEAD_WIDTH, Architecture, convit
from mixfast.models.core import Core
from mixfast.models.preact_resnet import PreActResNet18
from mixfast.models.resnet import ResNet18
from mixfast.models.token_core import TokenCore
from mixfast.models.wrn import WideResNet


@dataclass(frozen=True)
class Family:
    """Backbones whose names follow one pattern; `build` takes the pattern's numbers in their order.

    `tokens` tells vision transformers, whose `build` gives an Architecture, from networks of convolutions, whose `build`
    gives the Core itself. `depths` and `widths` are what the nearest valid name is looked for in; typed widths join them
    if they are multiples of `width_unit`.
    """

    pattern: str
    example: str
    build: Callable[..., Core | Architecture]
    tokens: bool = False
    depths: Iterable[int] = range(10, 41, 6)
    widths: Iterable[int] = range(1, 15)
    width_unit: int = 1

    def numbers(self, name: str) -> list[int] | None:
        """The numbers in `name`, or None if the name is not of this family."""
        match = re.fullmatch(re.sub(r"\{\w+\}", "([1-9][0-9]*)", self.pattern), name)
        return None if match is None else [int(number) for number in match.groups()]

    def open_width(self, numbers: Iterable[int]) -> tuple[str, int]:
        """The family's name with these numbers but for the width, and the width."""
        by_field = dict(zip(re.findall(r"\{(\w+)\}", self.pattern), numbers, strict=True))
        return self.pattern.format(**{**by_field, "width": "WIDTH"}), by_field["width"]

    def valid_names(self, typed: Iterable[int]) -> set[str]:
        """Some names of this family, with the `typed` numbers as widths too."""
        widths = {*self.widths, *(number for number in typed if number % self.width_unit == 0)}
        return {self.pattern.format(depth=depth, width=width) for depth, width in product(self.depths, widths)}


FAMILIES = (
    Family("wrn{depth}-{width}", "wrn28-10", WideResNet),
    Family("preact-resnet18-{width}", "preact-resnet18-2", PreActResNet18),
    Family("resnet18-{width}", "resnet18-5", ResNet18),
    Family("convit", "convit", convit, tokens=True),
    Family(
        "convit{width}-{depth}",
        "convit384-5",
        convit,
        tokens=True,
        depths=range(1, 25),
        widths=range(CONVIT_HEAD_WIDTH, 769, CONVIT_HEAD_WIDTH),
        width_unit=CONVIT_HEAD_WIDTH,
    ),
    *(Family(name, name, partial(CAIT.__getitem__, name), tokens=True) for name in CAIT),
)


def backbone_names() -> dict[str, str]:
    """Each family's name pattern, with an example of it."""
    return {family.pattern: family.example for family in FAMILIES}


def build_backbone(
    name: str,
    *,
    image_size: int | tuple[int, int] | None = None,
    patch_size: int | None = None,
    drop_path: float | None = None,
) -> Core | TokenCore:
    """The freshly initialised backbone called `name`, in float32 on torch's default device.

    Vision transformers need `image_size`, pixels squared or (H, W), which `patch_size` must divide: by default 4 for images
    up to 32 pixels, 8 up to 64, else 16. `drop_path` is their rate of stochastic depth, by default 0.

    Raises ValueError for a name that fits no family (with the nearest one that does), whose numbers make no network, or
    for arguments that the family does not take, needs, or cannot make a network of.
    """
    family, numbers = _family_of(name)
    build = _build_tokens if family.tokens else _build_convolutions
    try:
        return build(family, numbers, image_size, patch_size, drop_path)
    except ValueError as error:
        raise ValueError(f"backbone {name!r}: {error}") from error


def is_transformer(name: str) -> bool:
    """Whether `name` is a vision transformer's. Raises ValueError for a name that `build_backbone` does not take."""
    family, numbers = _family_of(name)
    try:
        with torch.device("meta"):  # costs nothing
            family.build(*numbers)
    except ValueError as error:
        raise ValueError(f"backbone {name!r}: {error}") from error
    return family.tokens


def split_width(name: str) -> tuple[str, int]:
    """What a backbone is but for its width, and that width: `wrn28-WIDTH` and 10; `cait of 24 blocks` and 288.

    The width of a convolutional network is a multiple of the standard one, that of a transformer the values of a token.
    Raises ValueError for a name that `build_backbone` does not take.
    """
    family, numbers = _family_of(name)
    if not family.tokens:
        return family.open_width(numbers)
    architecture = family.build(*numbers)
    return f"{re.match('[a-z]+', name)[0]} of {architecture.depth} blocks", architecture.width


def _family_of(name: str) -> tuple[Family, list[int]]:
    for family in FAMILIES:
        numbers = family.numbers(name)
        if numbers is not None:
            return family, numbers
    expected = ", ".join(
        pattern if pattern == example else f"{pattern} (as {example})" for pattern, example in backbone_names().items()
    )
    raise ValueError(f"backbone {name!r} is unknown: expected {expected}; the nearest is {_nearest_name(name)!r}")


def _build_tokens(
    family: Family,
    numbers: list[int],
    image_size: int | tuple[int, int] | None,
    patch_size: int | None,
    drop_path: float | None,
) -> TokenCore:
    if image_size is None:
        raise ValueError("image_size: a vision transformer needs the size of its images, pixels squared or (H, W)")
    return TokenCore(family.build(*numbers), image_size, patch_size, drop_path or 0.0)


def _build_convolutions(family: Family, numbers: list[int], *arguments: object) -> Core:
    for argument, value in zip(("image_size", "patch_size", "drop_path"), arguments, strict=True):
        if value is not None:
            raise ValueError(
                f"{argument}: only vision transformers take it, a network of convolutions does not; got {value}"
            )
    return family.build(*numbers)


def _nearest_name(name: str) -> str:
    typed = [int(number) for number in re.findall("[1-9][0-9]*", name)]
    valid = set().union(*(family.valid_names(typed) for family in FAMILIES))
    return difflib.get_close_matches(name.lower(), sorted(valid), n=1, cutoff=0.0)[0]
