"""`list:DIR`: images anywhere, with their labels in text files."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from mixfast.data.errors import DataError
from mixfast.data.labelled import class_names, label_of, locate
from mixfast.data.paths import contents
from mixfast.data.source import RawSplit, check_split, split_of_files


@dataclass(frozen=True)
class FileList:
    """DIR/{train,test,val}.txt: a line an image, its path (relative to DIR) and after the last space or tab its label, a
    number from 0 or a class's name. Classes as `labelled.class_names` says. "test" falls back to val.txt."""

    directory: str

    @property
    def name(self) -> str:
        return f"list:{self.directory}"

    def split_names(self, root: Path) -> tuple[str, ...]:
        location = locate(self.directory, root, "list")
        return ("train", "test", "val") if (location / "val.txt").is_file() else ("train", "test")

    def open(self, split: str, root: Path) -> RawSplit:
        check_split(self.name, split, self.split_names(root))
        location = locate(self.directory, root, "list")
        training = self._lines(location, "train")
        classes = class_names(location, [label for _, label, _ in training])
        actual = "val" if split == "test" and not (location / "test.txt").is_file() else split
        lines = training if actual == "train" else self._lines(location, actual)
        label_by_name = {name: label for label, name in enumerate(classes)}
        also_read = [location / f"{actual}.txt"]
        if (location / "classes.txt").is_file():
            also_read.append(location / "classes.txt")
        return split_of_files(
            name=self.name,
            split=actual,
            location=location,
            classes=classes,
            images=[os.path.join(location, image) for image, _, _ in lines],
            labels=[label_of(label, classes, label_by_name, where) for _, label, where in lines],
            also_read=also_read,
        )

    def _lines(self, location: Path, split: str) -> list[tuple[str, str, str]]:
        """(path, label, "file, line number") of each image."""
        file = location / f"{split}.txt"
        if not file.is_file():
            raise FileNotFoundError(
                f"{self.name} has no {split}.txt, expected train.txt and test.txt or val.txt; {contents(location)}"
            )
        lines = []
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
            words = line.rsplit(maxsplit=1)
            if len(words) == 2:
                lines.append((words[0].strip(), words[1], f"{file}, line {number}"))
            elif words:
                raise DataError(f"{file}, line {number}: expected a path and a label, got {line.strip()!r}")
        if not lines:
            raise DataError(f"{file} names no images")
        return lines
