"""`cub200`: Caltech-UCSD Birds-200-2011 in the official layout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mixfast.data.errors import DataError
from mixfast.data.paths import contents
from mixfast.data.source import RawSplit, check_split, split_of_files

FOLDER = "CUB_200_2011"


@dataclass(frozen=True)
class Cub200:
    """Photographs of 200 kinds of birds, of all sizes; 5,994 to train and 5,794 to test, as train_test_split.txt says. Lies in ROOT
    itself or in ROOT/CUB_200_2011. Its mean and deviation are computed from the training pixels."""

    name: str = "cub200"

    def split_names(self, root: Path) -> tuple[str, ...]:
        return ("train", "test")

    def open(self, split: str, root: Path) -> RawSplit:
        check_split(self.name, split, self.split_names(root))
        location = self._locate(root)
        columns = {
            name: _column(location / f"{name}.txt") for name in ("images", "image_class_labels", "train_test_split")
        }
        files, label_of, is_training = columns.values()
        for name, column in columns.items():
            if column.keys() != files.keys():
                raise DataError(
                    f"{self.name}: {location / name}.txt numbers other images than images.txt ({len(files)})"
                )
        classes = _column(location / "classes.txt")
        number = {class_number: label for label, class_number in enumerate(classes)}
        wanted = "1" if split == "train" else "0"
        chosen = [image for image, training in is_training.items() if training == wanted]
        return split_of_files(
            name=self.name,
            split=split,
            location=location,
            classes=tuple(classes.values()),
            images=[str(location / "images" / files[image]) for image in chosen],
            labels=[number[label_of[image]] for image in chosen],
            also_read=[location / f"{name}.txt" for name in (*columns, "classes")],
        )

    def _locate(self, root: Path) -> Path:
        for place in (root / FOLDER, root):
            if (place / "train_test_split.txt").is_file():
                return place
        raise FileNotFoundError(
            f"{self.name}: no train_test_split.txt in {root / FOLDER} or {root}; {contents(root)}. Unpack "
            f"{FOLDER}.tgz there, or name the folder that has it with --data or $MIXFAST_DATA"
        )


def _column(file: Path) -> dict[str, str]:
    """Second column by first: lines are "number value". Raises DataError that names the line that is not."""
    found = {}
    for place, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            key, space, value = line.strip().partition(" ")
            if not space:
                raise DataError(f"{file}, line {place}: {line!r}, expected a number and what it stands for")
            found[key] = value.strip()
    return found
