"""AutoAugment's policies for CIFAR and ImageNet (Cubuk et al., "AutoAugment", CVPR 2019, appendix; thesis A.1.5).

A policy is 25 sub-policies, of which each image gets one at random. A sub-policy is two operations, each of which is
applied with its own probability, at a fixed magnitude: one of the steps 0 to 9 of the operation's range. The direction
of a magnitude in `SIGNED` is random.
"""

from __future__ import annotations

from typing import NamedTuple


class Choice(NamedTuple):
    """An operation of a sub-policy; those without a range, such as equalize, have no magnitude."""

    name: str
    probability: float
    magnitude: int | None = None


SubPolicy = tuple[Choice, Choice]

GEOMETRIC = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
"""Operations that move pixels."""

SIGNED = frozenset((*GEOMETRIC, "brightness", "color", "contrast", "sharpness"))
"""Operations whose magnitude is negated with probability one half."""

MAGNITUDES = 10
"""Steps of an operation's range."""

_CIFAR: tuple[SubPolicy, ...] = (
    (Choice("invert", 0.1), Choice("contrast", 0.2, 6)),
    (Choice("rotate", 0.7, 2), Choice("translate_x", 0.3, 9)),
    (Choice("sharpness", 0.8, 1), Choice("sharpness", 0.9, 3)),
    (Choice("shear_y", 0.5, 8), Choice("translate_y", 0.7, 9)),
    (Choice("autocontrast", 0.5), Choice("equalize", 0.9)),
    (Choice("shear_y", 0.2, 7), Choice("posterize", 0.3, 7)),
    (Choice("color", 0.4, 3), Choice("brightness", 0.6, 7)),
    (Choice("sharpness", 0.3, 9), Choice("brightness", 0.7, 9)),
    (Choice("equalize", 0.6), Choice("equalize", 0.5)),
    (Choice("contrast", 0.6, 7), Choice("sharpness", 0.6, 5)),
    (Choice("color", 0.7, 7), Choice("translate_x", 0.5, 8)),
    (Choice("equalize", 0.3), Choice("autocontrast", 0.4)),
    (Choice("translate_y", 0.4, 3), Choice("sharpness", 0.2, 6)),
    (Choice("brightness", 0.9, 6), Choice("color", 0.2, 8)),
    (Choice("solarize", 0.5, 2), Choice("invert", 0.0)),
    (Choice("equalize", 0.2), Choice("autocontrast", 0.6)),
    (Choice("equalize", 0.2), Choice("equalize", 0.6)),
    (Choice("color", 0.9, 9), Choice("equalize", 0.6)),
    (Choice("autocontrast", 0.8), Choice("solarize", 0.2, 8)),
    (Choice("brightness", 0.1, 3), Choice("color", 0.7, 0)),
    (Choice("solarize", 0.4, 5), Choice("autocontrast", 0.9)),
    (Choice("translate_y", 0.9, 9), Choice("translate_y", 0.7, 9)),
    (Choice("autocontrast", 0.9), Choice("solarize", 0.8, 3)),
    (Choice("equalize", 0.8), Choice("invert", 0.1)),
    (Choice("translate_y", 0.7, 9), Choice("autocontrast", 0.9)),
)

_IMAGENET: tuple[SubPolicy, ...] = (
    (Choice("posterize", 0.4, 8), Choice("rotate", 0.6, 9)),
    (Choice("solarize", 0.6, 5), Choice("autocontrast", 0.6)),
    (Choice("equalize", 0.8), Choice("equalize", 0.6)),
    (Choice("posterize", 0.6, 7), Choice("posterize", 0.6, 6)),
    (Choice("equalize", 0.4), Choice("solarize", 0.2, 4)),
    (Choice("equalize", 0.4), Choice("rotate", 0.8, 8)),
    (Choice("solarize", 0.6, 3), Choice("equalize", 0.6)),
    (Choice("posterize", 0.8, 5), Choice("equalize", 1.0)),
    (Choice("rotate", 0.2, 3), Choice("solarize", 0.6, 8)),
    (Choice("equalize", 0.6), Choice("posterize", 0.4, 6)),
    (Choice("rotate", 0.8, 8), Choice("color", 0.4, 0)),
    (Choice("rotate", 0.4, 9), Choice("equalize", 0.6)),
    (Choice("equalize", 0.0), Choice("equalize", 0.8)),
    (Choice("invert", 0.6), Choice("equalize", 1.0)),
    (Choice("color", 0.6, 4), Choice("contrast", 1.0, 8)),
    (Choice("rotate", 0.8, 8), Choice("color", 1.0, 2)),
    (Choice("color", 0.8, 8), Choice("solarize", 0.8, 7)),
    (Choice("sharpness", 0.4, 7), Choice("invert", 0.6)),
    (Choice("shear_x", 0.6, 5), Choice("equalize", 1.0)),
    (Choice("color", 0.4, 0), Choice("equalize", 0.6)),
    (Choice("equalize", 0.4), Choice("solarize", 0.2, 4)),
    (Choice("solarize", 0.6, 5), Choice("autocontrast", 0.6)),
    (Choice("invert", 0.6), Choice("equalize", 1.0)),
    (Choice("color", 0.6, 4), Choice("contrast", 1.0, 8)),
    (Choice("equalize", 0.8), Choice("equalize", 0.6)),
)

POLICIES: dict[str, tuple[SubPolicy, ...]] = {"cifar": _CIFAR, "imagenet": _IMAGENET}
