"""The thesis's figures of what its networks cost, beside what is counted here: ``mixfast flops --table``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mixfast.config.errors import ConfigError, did_you_mean
from mixfast.flops.tables.figure import Figure, ThesisTable
from mixfast.flops.tables.operations import section_4332, section_a73
from mixfast.flops.tables.parameters import table_35, table_43, table_a17
from mixfast.flops.tables.ratios import table_41, table_46, table_a18
from mixfast.flops.tables.wide_resnet import section_a55

__all__ = ["TABLES", "Figure", "ThesisTable", "table_builders"]

TABLES: dict[str, Callable[[], ThesisTable]] = {
    "3.5": table_35,
    "4.1": table_41,
    "4.3": table_43,
    "4.3.3.2": section_4332,
    "4.6": table_46,
    "A.5.5": section_a55,
    "A.7.3": section_a73,
    "A.17": table_a17,
    "A.18": table_a18,
}
"""By the number of a table or section, in the thesis's order."""


def table_builders(numbers: Sequence[str]) -> list[Callable[[], ThesisTable]]:
    """What makes the tables or sections with these numbers; ``all`` is every one.

    Raises:
        ConfigError: one that prints no cost.
    """
    for number in numbers:
        if number not in (*TABLES, "all"):
            raise ConfigError(
                f"--table is {number!r}, expected one that prints a cost: {', '.join(TABLES)}, or all"
                f"{did_you_mean(number, TABLES)}"
            )
    return list(TABLES.values()) if "all" in numbers else [TABLES[number] for number in numbers]
