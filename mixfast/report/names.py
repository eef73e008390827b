"""What things are called where several stand side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from pathlib import Path
from textwrap import fill

NO_BREAK = "\u00a0"


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """The last parts of different absolute paths: as many of each as tell it from the others."""
    names = [path.name for path in paths]
    parts = 1
    while shared := {name for name, count in Counter(names).items() if count > 1}:
        parts += 1
        names = [
            "/".join(path.parts[-parts:]) if name in shared else name for name, path in zip(names, paths, strict=True)
        ]
    return names


def short_labels(descriptions: Sequence[Sequence[str]], always: int = 1) -> list[str]:
    """The first ``always`` parts of each description, and of the others, in their order, those that tell some apart."""
    columns = list(zip(*descriptions, strict=True))
    kept = columns[:always]
    for column in columns[always:]:
        if _kinds([*kept, column]) > _kinds(kept):
            kept.append(column)
    return [", ".join(filter(None, parts)) for parts in zip(*kept, strict=True)]


def wrapped(label: str, letters: int) -> str:
    """Lines of at most so many letters where that is possible, broken between the parts of a label only."""
    lines = fill(label.replace(" ", NO_BREAK).replace(f",{NO_BREAK}", ", "), letters, break_long_words=False)
    return lines.replace(NO_BREAK, " ")


def _kinds(columns: Sequence[Sequence[Hashable]]) -> int:
    return len(set(zip(*columns, strict=True)))
