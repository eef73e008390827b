"""list:DIR and shards:DIR: the same images and labels as class folders, through every source, and what they refuse."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from sources_here import STREAMING
from test_sources import all_pixels

from mixfast.data import DataError, SourceOptions, load_split, open_images, split_names

Folder = Callable[..., Path]
COUNTS = {"train/cat": 4, "train/dog": 3, "val/cat": 2, "val/dog": 1}


@pytest.fixture
def pets(image_folder: Folder) -> Path:
    return image_folder(COUNTS, size=(8, 8))


def images_of(folder: Path, split: str) -> list[tuple[Path, str]]:
    return [(file, file.parent.name) for file in sorted((folder / split).rglob("*.png"))]


def write_list(folder: Path, split: str, names: bool = True) -> None:
    lines = [
        f"{file.relative_to(folder)} {label if names else ('cat', 'dog').index(label)}"
        for file, label in images_of(folder, split)
    ]
    (folder / f"{split}.txt").write_text("\n".join(lines) + "\n\n")


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def write_shards(folder: Path, target: Path, split: str, names: bool = True, size: int = 3) -> None:
    target.mkdir(exist_ok=True)
    images = images_of(folder, split)
    for number in range(0, len(images), size):
        with tarfile.open(target / f"{split}-{number // size:04}.tar", "w") as archive:
            for key, (file, label) in enumerate(images[number : number + size], number):
                written = label if names else str(("cat", "dog").index(label))
                add(archive, f"some/{key:06}.cls", written.encode())
                add(archive, f"some/{key:06}.png", file.read_bytes())
                add(archive, f"some/{key:06}.json", b"{}")


def as_list(folder: Path, names: bool) -> str:
    for split in ("train", "val"):
        write_list(folder, split, names)
    return f"list:{folder}"


def as_shards(folder: Path, names: bool) -> str:
    for split in ("train", "val"):
        write_shards(folder, folder.parent / "shards", split, names)
    return f"shards:{folder.parent / 'shards'}"


@pytest.mark.parametrize("make", [as_list, as_shards])
@pytest.mark.parametrize("names", [True, False])
@pytest.mark.parametrize("kind", ("resident", *STREAMING))
def test_images_and_labels_are_those_of_the_folders(make, names: bool, kind: str, pets: Path) -> None:
    name = make(pets, names)
    assert split_names(name) == ("train", "test", "val")
    options = SourceOptions(kind, workers=1)
    for data, split in zip(open_images(name, ("train", "test"), options=options), ("train", "test"), strict=True):
        expected = load_split(f"folder:{pets}", split)
        assert torch.equal(all_pixels(data), expected.images) and torch.equal(data.labels, expected.labels)
        assert data.classes == (expected.classes if names else ("0", "1"))
        assert (data.mean, data.std, data.split) == (expected.mean, expected.std, expected.split)


@pytest.mark.parametrize("make", [as_list, as_shards])
def test_classes_txt_names_the_numbers(make, pets: Path) -> None:
    name = make(pets, False)
    (Path(name.partition(":")[2]) / "classes.txt").write_text("cat\ndog\n\n")
    assert load_split(name, "train").classes == ("cat", "dog")


def test_a_list_may_point_anywhere_with_spaces(tmp_path: Path, pets: Path) -> None:
    (tmp_path / "lists").mkdir()
    (pets / "train/cat/00.png").rename(tmp_path / "a b.png")
    rows = [f"{tmp_path}/a b.png\tcat", "../pets/train/dog/00.png   dog"]
    for split in ("train", "test"):
        (tmp_path / "lists" / f"{split}.txt").write_text("\n".join(rows))
    assert load_split("list:lists", "test", root=tmp_path).labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train/cat/00.png", "train.txt, line 8: expected a path and a label, got 'train/cat/00.png'"),
        ("train/cat/99.png cat", "99.png"),
    ],
)
def test_lines_that_cannot_be(line: str, message: str, pets: Path) -> None:
    name = as_list(pets, True)
    file = pets / "train.txt"
    file.write_text(file.read_text().strip() + f"\n{line}\n")
    with pytest.raises((DataError, FileNotFoundError), match=message):
        load_split(name, "train")


def test_a_label_that_training_does_not_have(pets: Path) -> None:
    name = as_list(pets, True)
    (pets / "val.txt").write_text("val/cat/00.png fox\n")
    with pytest.raises(DataError, match="val.txt, line 1: label 'fox' is neither one of the 2 classes"):
        load_split(name, "test")


def test_splits_that_are_missing(pets: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="has no train.txt"):
        load_split(f"list:{pets}", "train")
    with pytest.raises(FileNotFoundError, match=r"has no shards train\*.tar"):
        load_split(f"shards:{pets}", "train")
    with pytest.raises(FileNotFoundError, match="shards:nowhere: there is no folder"):
        load_split("shards:nowhere", "train", root=tmp_path)
    with pytest.raises(DataError, match="list: names no directory"):
        load_split("list:", "train")


def test_shards_that_cannot_be(pets: Path) -> None:
    name = as_shards(pets, True)
    shard = pets.parent / "shards/train-0000.tar"
    with tarfile.open(shard, "a") as archive:
        add(archive, "some/alone.jpg", b"x")
    with pytest.raises(
        DataError, match=r"train-0000.tar/some/alone.jpg: has no label, expected a member some/alone.cls"
    ):
        load_split(name, "train")
    shard.write_bytes(b"no archive" * 100)
    with pytest.raises(DataError, match="train-0000.tar: not a whole, uncompressed tar archive"):
        load_split(name, "train")


@pytest.mark.parametrize("kind", ("resident", *STREAMING))
def test_a_corrupt_member_is_named(kind: str, pets: Path) -> None:
    (pets / "train/dog/01.png").write_bytes(b"no image")
    name = as_shards(pets, True)
    with pytest.raises(DataError, match=r"cannot decode .*train-0001.tar/some/000005.png: not an image"):
        all_pixels(open_images(name, ("train",), options=SourceOptions(kind, workers=1))[0])


@pytest.mark.parametrize("kind", STREAMING)
def test_an_archive_cut_short_while_training(kind: str, pets: Path) -> None:
    (data,) = open_images(as_shards(pets, True), ("train",), options=SourceOptions(kind, workers=1))
    shard = pets.parent / "shards/train-0001.tar"
    shard.write_bytes(shard.read_bytes()[:1500])
    with pytest.raises(DataError, match=r"cannot read .*train-0001.tar/some/.*the archive ends before"):
        all_pixels(data)
