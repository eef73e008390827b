"""Classes and splits of data sets that name classes in text: what file lists and shards have in common."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mixfast.data.errors import DataError
from mixfast.data.paths import contents


def locate(directory: str, root: Path, prefix: str) -> Path:
    """DIR itself, absolute or relative to the working directory, else ROOT/DIR; `prefix` as in folder:DIR."""
    if not directory:
        raise DataError(f"{prefix}: names no directory, expected {prefix}:DIR")
    places = [Path(directory).expanduser(), root / directory]
    for place in places:
        if place.is_dir():
            return place
    raise FileNotFoundError(
        f"{prefix}:{directory}: there is no folder {places[0].absolute()}, and none {places[1].absolute()}; {contents(root)}"
    )


def class_names(location: Path, training: Sequence[str]) -> tuple[str, ...]:
    """The classes in the order of their labels: the lines of `location`/classes.txt, else those that the training
    split's labels (`training`, as written) tell: numbers from 0 to the largest, or names in sorted order."""
    file = location / "classes.txt"
    if file.is_file():
        return tuple(line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip())
    distinct = set(training)
    if all(label.isdecimal() for label in distinct):
        return tuple(str(number) for number in range(1 + max(map(int, distinct), default=-1)))
    return tuple(sorted(distinct))


def label_of(written: str, classes: Sequence[str], label_by_name: dict[str, int], where: str) -> int:
    """The label that stands in a list or shard: a class's name, else its number. Raises DataError, beginning with `where`."""
    if written in label_by_name:
        return label_by_name[written]
    if written.isdecimal() and int(written) < len(classes):
        return int(written)
    raise DataError(f"{where}: label {written!r} is neither one of the {len(classes)} classes nor one's number from 0")
