"""`shards:DIR`: WebDataset shards, tar archives whose members of one name belong together."""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mixfast.data.encoded import ArchivedFile, read_bytes
from mixfast.data.errors import DataError
from mixfast.data.labelled import class_names, label_of, locate
from mixfast.data.paths import IMAGE_SUFFIXES, contents
from mixfast.data.source import RawSplit, check_split, split_of_files

_SHARD = re.compile(r"(train|test|val)\b.*\.tar")


@dataclass(frozen=True)
class Shards:
    """DIR/{train,test,val}*.tar, such as train-000000.tar. A sample is the members KEY.jpg (or another image's suffix)
    and KEY.cls, which holds a number from 0 or a class's name. Classes as `labelled.class_names` says. "test" falls back
    to the val shards. Archives are not unpacked: opening a split reads their headers, decoding seeks to the images."""

    directory: str

    @property
    def name(self) -> str:
        return f"shards:{self.directory}"

    def split_names(self, root: Path) -> tuple[str, ...]:
        found = self._shards(locate(self.directory, root, "shards"))
        return ("train", "test", "val") if "val" in found else ("train", "test")

    def open(self, split: str, root: Path) -> RawSplit:
        check_split(self.name, split, self.split_names(root))
        location = locate(self.directory, root, "shards")
        found = self._shards(location)
        actual = "val" if split == "test" and "test" not in found else split
        for needed in ("train", actual):
            if needed not in found:
                raise FileNotFoundError(
                    f"{self.name} has no shards {needed}*.tar, expected those of train, and of test or val; "
                    f"{contents(location)}"
                )
        samples = [sample for shard in found[actual] for sample in _samples(shard)]
        has_list = (location / "classes.txt").is_file()
        training = (
            samples if actual == "train" or has_list else [s for shard in found["train"] for s in _samples(shard)]
        )
        classes = class_names(location, [label for _, label in training])
        label_by_name = {name: label for label, name in enumerate(classes)}
        return split_of_files(
            name=self.name,
            split=actual,
            location=location,
            classes=classes,
            images=[image for image, _ in samples],
            labels=[label_of(label, classes, label_by_name, str(image)) for image, label in samples],
            also_read=[location / "classes.txt"] if has_list else [],
        )

    def _shards(self, location: Path) -> dict[str, list[str]]:
        """The archives of each split, sorted."""
        found: dict[str, list[str]] = {}
        for name in sorted(os.listdir(location)):
            match = _SHARD.fullmatch(name)
            if match:
                found.setdefault(match[1], []).append(os.path.join(location, name))
        return found


def _samples(shard: str) -> Iterator[tuple[ArchivedFile, str]]:
    """(image, label as written) of each sample, in the archive's order."""
    images: dict[str, ArchivedFile] = {}
    labels: dict[str, str] = {}
    for member in _members(shard):
        folder, _, name = member.member.rpartition("/")
        key, _, suffix = name.partition(".")
        key = f"{folder}/{key}"
        if f".{suffix.lower()}" in IMAGE_SUFFIXES:
            if key in images:
                raise DataError(f"{shard}: {images[key].member} and {member.member} are two images of one sample")
            images[key] = member
        elif suffix == "cls":
            labels[key] = read_bytes(member).decode(errors="replace").strip()
    for key, image in images.items():
        if key not in labels:
            raise DataError(f"{image}: has no label, expected a member {key.lstrip('/')}.cls")
        yield image, labels[key]


def _members(shard: str) -> Iterator[ArchivedFile]:
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                if member.isfile():
                    yield ArchivedFile(shard, member.name, member.offset_data, member.size)
    except tarfile.TarError as error:
        raise DataError(f"{shard}: not a whole, uncompressed tar archive: {error}") from error
