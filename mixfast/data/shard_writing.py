"""`mixfast data prepare NAME --shards DIR`: a data set's image files, as they are, in WebDataset shards that `shards:DIR` reads.

A shard is written whole or not at all, so that an interrupted run goes on where it ended. What is written is the same every
time: images in a fixed random order, so that every shard has images of all classes.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch

from mixfast.data.decode import progress
from mixfast.data.encoded import EncodedFile, read_bytes
from mixfast.data.errors import DataError
from mixfast.data.paths import contents, data_root
from mixfast.data.published import count_beside_published
from mixfast.data.registry import find_source
from mixfast.data.source import RawSplit, distinct_splits
from mixfast.files import replacing, write_text

SHARD_SIZE = 1000
# What a folder of shards was made from, so that two data sets are never mixed up in one.
_MADE_FROM = "shards.json"


@dataclass(frozen=True)
class WrittenSplit:
    """name, split: of the data set; images, shards: how many there are now; before: how many shards lay there already."""

    name: str
    split: str
    images: int
    shards: int
    before: int

    def describe(self) -> str:
        """One line for people."""
        published = count_beside_published(self.name, self.split, self.images)
        already = f", {self.before:,} of them written before" if self.before else ""
        return f"{self.name} ({self.split}): {self.images:,} images{published} in {self.shards:,} shards{already}"


def write_shards(
    name: str, folder: str | Path, *, root: str | Path | None = None, shard_size: int = SHARD_SIZE
) -> Iterator[WrittenSplit]:
    """Writes every split of `name` into DIR/SPLIT-000000.tar, ..., one after the other, and classes.txt; yields what there is.

    folder      DIR; made if it is missing
    root        as for `load_split`
    shard_size  images a shard, at most

    Files are copied, not decoded: training, or `prepare` of shards:DIR, finds those that are corrupt.

    Raises DataError where the images lie in arrays, or DIR holds shards of something else; ValueError for a shard_size below 1;
    OSError for a file that cannot be read or written.
    """
    if shard_size < 1:
        raise ValueError(f"shard_size is {shard_size}, expected at least 1")
    folder = Path(folder).expanduser()
    splits = [raw for _, raw in distinct_splits(find_source(name), data_root(root))]
    if not all(raw.images for raw in splits):
        raise DataError(f"{name}: its images lie in arrays, there are no files to put into shards")
    folder.mkdir(parents=True, exist_ok=True)
    _claim(folder, splits, shard_size)
    for raw in splits:
        yield _write_split(raw, folder, shard_size)


def _claim(folder: Path, splits: Sequence[RawSplit], shard_size: int) -> None:
    """Says in the folder what it is made from, or finds that it already is."""
    made_from = {"splits": {raw.split: _identity(raw) for raw in splits}, "shard_size": shard_size}
    file = folder / _MADE_FROM
    if file.is_file():
        if json.loads(file.read_text(encoding="utf-8")) != made_from:
            raise DataError(f"{folder} holds shards of another data set, or of another size; choose another folder")
    elif any(folder.glob("*.tar")):
        raise DataError(
            f"{folder} holds archives that were not written here ({contents(folder)}); choose another folder"
        )
    write_text(folder / "classes.txt", "".join(f"{label}\n" for label in splits[0].classes))
    write_text(file, json.dumps(made_from, indent=2) + "\n")


def _identity(raw: RawSplit) -> str:
    """Tells a split's files, their sizes and labels from others'."""
    digest = hashlib.sha256(repr((raw.name, raw.classes, raw.files)).encode(errors="surrogateescape"))
    digest.update(raw.labels.numpy().tobytes())
    return digest.hexdigest()


def _write_split(raw: RawSplit, folder: Path, shard_size: int) -> WrittenSplit:
    order = torch.randperm(len(raw.images), generator=torch.Generator().manual_seed(0)).tolist()
    parts = [order[start : start + shard_size] for start in range(0, len(order), shard_size)]
    # A number would be read as the name of a class where classes are called by numbers.
    labels = raw.classes if any(name.isdecimal() for name in raw.classes) else tuple(map(str, range(len(raw.classes))))
    before = 0
    with progress() as bar:
        task = bar.add_task(f"{raw.name} ({raw.split})", total=len(order))
        for number, part in enumerate(parts):
            shard = folder / f"{raw.split}-{number:06}.tar"
            if shard.is_file():
                before += 1
            else:
                with replacing(shard) as temporary:
                    _write_shard(temporary, [(place, raw.images[place], labels[raw.labels[place]]) for place in part])
            bar.advance(task, len(part))
    return WrittenSplit(raw.name, raw.split, len(order), len(parts), before)


def _write_shard(path: Path, samples: Sequence[tuple[int, EncodedFile, str]]) -> None:
    """samples: number, file and label of each."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for number, file, label in samples:
            named = file if isinstance(file, str) else file.member
            _add(archive, f"{number:08}{PurePosixPath(named).suffix.lower()}", read_bytes(file))
            _add(archive, f"{number:08}.cls", label.encode())


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))
