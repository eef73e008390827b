"""`tiny-imagenet`: the official layout, or a subset of its classes in the same layout."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from mixfast.data.errors import DataError
from mixfast.data.paths import contents, images_below, subfolders
from mixfast.data.published import STATISTICS
from mixfast.data.source import RawSplit, check_split, split_of_files


@dataclass(frozen=True)
class TinyImageNet:
    """64 x 64 RGB images; 200 classes, 500 training and 50 validation images of each.

    The official test split has no labels, so "test" is the annotated validation split, and its `ImageSet.split` says
    "val". Labels follow the order of wnids.txt; class names are words.txt's, else the WordNet ids. Lies in ROOT
    itself, ROOT/tiny-imagenet-200, or the one folder of ROOT that has a wnids.txt.
    """

    name: str = "tiny-imagenet"

    def split_names(self, root: Path) -> tuple[str, ...]:
        return ("train", "test", "val")

    def open(self, split: str, root: Path) -> RawSplit:
        check_split(self.name, split, self.split_names(root))
        location = self._locate(root)
        label_of = {wnid: label for label, wnid in enumerate((location / "wnids.txt").read_text().split())}
        find = self._training_images if split == "train" else self._validation_images
        images, labels = find(location, label_of)
        also_read = [location / "wnids.txt"]
        if split != "train":
            also_read.append(location / "val" / "val_annotations.txt")
        return split_of_files(
            name=self.name,
            split="train" if split == "train" else "val",
            location=location,
            classes=_class_names(location / "words.txt", list(label_of)),
            images=images,
            labels=labels,
            statistics=STATISTICS[self.name],
            also_read=also_read,
        )

    def _locate(self, root: Path) -> Path:
        for folder in (root, root / "tiny-imagenet-200"):
            if (folder / "wnids.txt").is_file():
                return folder
        candidates = [root / child for child in subfolders(root) if (root / child / "wnids.txt").is_file()]
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            raise DataError(f"{self.name}: {root} holds several ({', '.join(c.name for c in candidates)}); name one")
        raise FileNotFoundError(
            f"{self.name}: no wnids.txt in {root}, {root / 'tiny-imagenet-200'} or another folder of it; "
            f"{contents(root)}. Unpack tiny-imagenet-200.zip there, or name the folder that has it with --data or "
            "$MIXFAST_DATA"
        )

    def _training_images(self, location: Path, label_of: dict[str, int]) -> tuple[list[str], list[int]]:
        unknown = sorted(set(subfolders(location / "train")) - set(label_of))
        if unknown:
            raise DataError(
                f"{self.name}: {location / 'train' / unknown[0]} is a class that {location / 'wnids.txt'} does not list"
            )
        images: list[str] = []
        labels: list[int] = []
        for wnid, label in label_of.items():
            of_class = images_below(location / "train" / wnid)
            images += of_class
            labels += [label] * len(of_class)
        return images, labels

    def _validation_images(self, location: Path, label_of: dict[str, int]) -> tuple[list[str], list[int]]:
        annotations = location / "val" / "val_annotations.txt"
        if not annotations.is_file():
            raise FileNotFoundError(f"{self.name}: no {annotations}, which has the labels of val/images")
        labelled = _read_annotations(annotations, label_of)
        present = {os.path.basename(image): image for image in images_below(location / "val" / "images")}
        for names, complaint in (
            (sorted(set(labelled) - set(present)), "is annotated but missing"),
            (sorted(set(present) - set(labelled)), "has no annotation"),
        ):
            if names:
                raise DataError(f"{self.name}: {names[0]} {complaint} ({len(names)} in all; {annotations})")
        return [present[name] for name in present], [labelled[name] for name in present]


def _read_annotations(file: Path, label_of: dict[str, int]) -> dict[str, int]:
    """Label by image name. Columns, separated by tabs: image, WordNet id, a bounding box that is not needed."""
    labelled = {}
    for number, line in enumerate(file.read_text().splitlines(), start=1):
        if not line.strip():
            continue
        image, _, rest = line.partition("\t")
        wnid = rest.split("\t")[0].strip()
        if wnid not in label_of:
            raise DataError(
                f"{file}, line {number}: class {wnid!r} of {image} is not among the {len(label_of)} of wnids.txt"
            )
        labelled[image] = label_of[wnid]
    return labelled


def _class_names(words: Path, wnids: list[str]) -> tuple[str, ...]:
    if not words.is_file():
        return tuple(wnids)
    lines = (line.partition("\t") for line in words.read_text().splitlines())
    names = {wnid: name.strip() for wnid, _, name in lines}
    return tuple(names.get(wnid) or wnid for wnid in wnids)
