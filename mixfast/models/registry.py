"""Backbones by name: a family's pattern with its numbers filled in, such as wrn28-10."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass

from mixfast.models.core import Core
from mixfast.models.preact_resnet import PreActResNet18
from mixfast.models.resnet import ResNet18
from mixfast.models.wrn import WideResNet


@dataclass(frozen=True)
class Family:
    """Backbones whose names follow one pattern; `build` takes the pattern's numbers in their order."""

    pattern: str
    example: str
    build: Callable[..., Core]

    def numbers(self, name: str) -> list[int] | None:
        """The numbers in `name`, or None if the name is not of this family."""
        match = re.fullmatch(re.sub(r"\{\w+\}", "([1-9][0-9]*)", self.pattern), name)
        return None if match is None else [int(number) for number in match.groups()]


FAMILIES = (
    Family("wrn{depth}-{width}", "wrn28-10", WideResNet),
    Family("preact-resnet18-{width}", "preact-resnet18-2", PreActResNet18),
    Family("resnet18-{width}", "resnet18-5", ResNet18),
)


def backbone_names() -> dict[str, str]:
    """Each family's name pattern, with an example of it."""
    return {family.pattern: family.example for family in FAMILIES}


def build_backbone(name: str) -> Core:
    """The freshly initialised backbone called `name`, in float32 on torch's default device.

    Raises ValueError for a name that fits no family (with the nearest one that does) or whose numbers make no network.
    """
    for family in FAMILIES:
        numbers = family.numbers(name)
        if numbers is not None:
            return _build(family, name, numbers)
    expected = ", ".join(f"{pattern} (as {example})" for pattern, example in backbone_names().items())
    raise ValueError(f"backbone {name!r} is unknown: expected {expected}; the nearest is {_nearest_name(name)!r}")


def _build(family: Family, name: str, numbers: list[int]) -> Core:
    try:
        return family.build(*numbers)
    except ValueError as error:
        raise ValueError(f"backbone {name!r}: {error}") from error


def _nearest_name(name: str) -> str:
    widths = set(range(1, 15)) | {int(number) for number in re.findall("[1-9][0-9]*", name)}
    depths = range(10, 41, 6)
    valid = {
        family.pattern.format(depth=depth, width=width) for family in FAMILIES for depth in depths for width in widths
    }
    return difflib.get_close_matches(name.lower(), sorted(valid), n=1, cutoff=0.0)[0]
