"""A figure that the thesis prints, beside what is counted for it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any


@dataclass(frozen=True)
class Figure:
    """One printed figure.

    Attributes:
        row: what it is of.
        printed: as it stands there; one number is in it.
        counted: the number that was to be printed, exactly, in the same unit.
        mixfast: the same of mixfast's own way to compute it, where that is another one.
        why: for a figure that is not met, the cause; else a remark, or nothing.
    """

    row: str
    printed: str
    counted: Fraction
    mixfast: Fraction | None = None
    why: str = ""

    @property
    def number(self) -> Decimal:
        """The number in ``printed``."""
        return Decimal(re.search(r"\d[\d,]*(\.\d+)?", self.printed)[0].replace(",", ""))

    @property
    def difference(self) -> Fraction:
        """Counted less printed."""
        return self.counted - Fraction(self.number)

    @property
    def agreement(self) -> str:
        """``exact``; ``rounded`` or ``cut off``: what printing with so many digits made of the count; or ``no``."""
        if self.difference == 0:
            return "exact"
        last_digit = Fraction(10) ** self.number.as_tuple().exponent
        digits = self.counted / last_digit
        for name, whole in (("rounded", math.floor(digits + Fraction(1, 2))), ("cut off", math.floor(digits))):
            if whole * last_digit == Fraction(self.number):
                return name
        return "no"

    def to_dict(self) -> dict[str, Any]:
        """For JSON; numbers as floats."""
        own = None if self.mixfast is None else float(self.mixfast)
        derived = {"difference": float(self.difference), "agreement": self.agreement}
        return {**asdict(self), "counted": float(self.counted), "mixfast": own, **derived}


@dataclass(frozen=True)
class ThesisTable:
    """Figures of one table or section; ``title`` says what they are, ``decimals`` how exactly counts are shown, ``notes`` how they
    were counted."""

    number: str
    title: str
    figures: Sequence[Figure]
    decimals: int
    notes: Sequence[str] = ()

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        figures = [figure.to_dict() for figure in self.figures]
        return {"table": self.number, "title": self.title, "figures": figures, "notes": list(self.notes)}
