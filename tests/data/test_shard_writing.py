"""mixfast data prepare --shards: the same images and labels as the folder, written whole or not at all."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
import torch

from mixfast.cli import main
from mixfast.data import load_split, shard_writing
from mixfast.data.errors import DataError
from mixfast.data.shard_writing import write_shards


@pytest.fixture
def pets(image_folder) -> Path:
    return image_folder({"train/cat": 5, "train/dog": 3, "test/cat": 2, "test/dog": 1}, size=(8, 8))


def sorted_images(name: str, split: str) -> list[tuple[int, bytes]]:
    data = load_split(name, split)
    return sorted((int(label), image.numpy().tobytes()) for image, label in zip(data.images, data.labels, strict=True))


def test_the_same_images_and_labels(pets: Path, tmp_path: Path, capsys) -> None:
    shards = tmp_path / "made" / "shards"
    assert main(["data", "prepare", f"folder:{pets}", "--shards", str(shards), "--shard-size", "3"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "8 images in 3 shards" in said and "3 images in 1 shards" in said
    assert sorted(file.name for file in shards.glob("*.tar")) == [
        "test-000000.tar", "train-000000.tar", "train-000001.tar", "train-000002.tar"
    ]  # fmt: skip
    for split in ("train", "test"):
        assert sorted_images(f"shards:{shards}", split) == sorted_images(f"folder:{pets}", split)
    assert load_split(f"shards:{shards}", "train").classes == ("cat", "dog")
    labels = load_split(f"shards:{shards}", "train").labels
    assert not torch.equal(labels, labels.sort().values)  # no shard of one class alone


def test_classes_that_are_called_by_numbers_keep_their_labels(image_folder, tmp_path: Path) -> None:
    folder = image_folder({"train/10": 2, "train/2": 1, "test/10": 1, "test/2": 1}, size=(8, 8))
    list(write_shards(f"folder:{folder}", tmp_path / "shards"))
    assert sorted_images(f"shards:{tmp_path / 'shards'}", "train") == sorted_images(f"folder:{folder}", "train")


def test_shards_of_shards_and_the_same_bytes_every_time(pets: Path, tmp_path: Path) -> None:
    list(write_shards(f"folder:{pets}", tmp_path / "a", shard_size=4))
    list(write_shards(f"folder:{pets}", tmp_path / "b", shard_size=4))
    for file in (tmp_path / "a").glob("*.tar"):
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()
    list(write_shards(f"shards:{tmp_path / 'a'}", tmp_path / "c", shard_size=2))
    assert sorted_images(f"shards:{tmp_path / 'c'}", "train") == sorted_images(f"folder:{pets}", "train")


def test_an_interrupted_run_goes_on(pets: Path, tmp_path: Path, monkeypatch) -> None:
    shards, name = tmp_path / "shards", f"folder:{pets}"
    right, written = shard_writing._write_shard, []

    def interrupted(path: Path, samples) -> None:
        if len(written) == 1:
            path.write_bytes(b"half")
            raise KeyboardInterrupt
        written.append(path)
        right(path, samples)

    monkeypatch.setattr(shard_writing, "_write_shard", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(write_shards(name, shards, shard_size=3))
    assert [file.name for file in shards.glob("*.tar")] == ["train-000000.tar"]
    monkeypatch.setattr(shard_writing, "_write_shard", right)
    train, test = write_shards(name, shards, shard_size=3)
    assert (train.shards, train.before, test.before) == (3, 1, 0)
    assert sorted_images(f"shards:{shards}", "train") == sorted_images(name, "train")


def test_what_cannot_be_written(pets: Path, image_folder, tmp_path: Path, capsys) -> None:
    shards, name = tmp_path / "shards", f"folder:{pets}"
    list(write_shards(name, shards))
    with pytest.raises(DataError, match="of another data set, or of another size"):
        list(write_shards(name, shards, shard_size=2))
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    with tarfile.open(foreign / "train.tar", "w"):
        pass
    with pytest.raises(DataError, match="were not written here"):
        list(write_shards(name, foreign))
    with pytest.raises(DataError, match="lie in arrays"):
        list(write_shards("digits", tmp_path / "digits"))
    assert not (tmp_path / "digits").exists()
    prepare = ["data", "prepare", name]
    for extra, words in (
        (["--shard-size", "3"], "no effect without --shards"),
        (["--shards", "x", "--image-size", "8"], "--image-size has no effect with --shards"),
        (["--shards", "x", "--skip-corrupt"], "--skip-corrupt has no effect"),
        (["--shards", "x", "--shard-size", "0"], "--shard-size is 0"),
    ):
        assert main([*prepare, *extra]) == 2
        assert words in " ".join(capsys.readouterr().err.split())
