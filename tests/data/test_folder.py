"""folder:DIR: where it is looked for, what it decides, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mixfast.data import CorruptImageError, DataError, DataWarning, load_split, split_names

Folder = Callable[..., Path]
TWO_CLASSES = {"train/cat": 3, "train/dog": 2, "test/cat": 1, "test/dog": 2}


def test_classes_and_images_are_sorted_and_pixels_exact(image_folder: Folder) -> None:
    folder = image_folder({"train/dog": 2, "train/cat": 3, "train/.hidden": 1, "test/cat": 1, "test/dog": 1})
    train = load_split(f"folder:{folder}", "train")
    assert train.classes == ("cat", "dog")
    assert train.labels.tolist() == [0, 0, 0, 1, 1]
    order = [f"cat/0{n}.png" for n in range(3)] + [f"dog/0{n}.png" for n in range(2)]
    expected = np.stack([np.asarray(Image.open(folder / "train" / name)) for name in order])
    np.testing.assert_array_equal(train.images.permute(0, 2, 3, 1).numpy(), expected)
    assert (train.split, train.name, train.skipped) == ("train", f"folder:{folder}", 0)


def test_both_splits_are_normalised_by_the_training_images(image_folder: Folder) -> None:
    folder = image_folder(TWO_CLASSES)
    test, train = load_split(f"folder:{folder}", "test"), load_split(f"folder:{folder}", "train")
    pixels = train.images.numpy().astype(np.float64) / 255
    np.testing.assert_allclose(train.mean, pixels.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(train.std, pixels.std(axis=(0, 2, 3)), rtol=1e-12)
    assert (test.mean, test.std) == (train.mean, train.std)


def test_images_in_folders_of_a_class_folder_and_other_files(image_folder: Folder) -> None:
    folder = image_folder({"train/cat/images": 2, "train/dog": 1})
    (folder / "train/cat/boxes.txt").write_text("no image")
    (folder / "train/cat/.hidden.png").write_text("no image")
    assert load_split(f"folder:{folder}", "train").labels.tolist() == [0, 0, 1]


def test_test_falls_back_to_val(image_folder: Folder) -> None:
    folder = image_folder({"train/cat": 1, "train/dog": 1, "val/cat": 2, "val/dog": 1})
    assert load_split(f"folder:{folder}", "test").split == "val"
    assert split_names(f"folder:{folder}") == ("train", "test", "val")


def test_test_is_test_where_both_exist(image_folder: Folder) -> None:
    folder = image_folder({f"{split}/cat": count for split, count in (("train", 1), ("val", 2), ("test", 3))})
    assert [len(load_split(f"folder:{folder}", split)) for split in ("train", "val", "test")] == [1, 2, 3]
    assert load_split(f"folder:{folder}", "test").split == "test"


def test_the_training_split_decides_the_channels(image_folder: Folder, tmp_path: Path) -> None:
    folder = image_folder({"train/cat": 2, "train/dog": 2}, channels=1)
    image_folder({"test/cat": 1, "test/dog": 1}, channels=3)
    name = f"folder:{folder}"
    assert (load_split(name, "train").channels, load_split(name, "test").channels) == (1, 1)
    Image.new("RGB", (6, 4), (1, 2, 3)).save(folder / "train/cat/99.png")
    with pytest.warns(DataWarning, match="is not used: it was made from other files"):
        assert (load_split(name, "train").channels, load_split(name, "test").channels) == (3, 3)


def test_image_size(image_folder: Folder) -> None:
    folder = image_folder(TWO_CLASSES, size=(8, 12))
    image_folder({"train/fox": 1, "test/fox": 1}, size=(9, 9))
    with pytest.raises(DataError, match=r"00.png is 12x8, .*00.png is 9x9; give image_size"):
        load_split(f"folder:{folder}", "train")
    assert load_split(f"folder:{folder}", "train", image_size=5).image_shape == (5, 5)
    with pytest.raises(ValueError, match="image_size is 0, expected at least 1"):
        load_split(f"folder:{folder}", "train", image_size=0)


def test_relative_to_the_working_directory_then_to_the_root(
    image_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image_folder({"train/cat": 1}, name="here")
    image_folder({"train/cat": 2}, name="data/there")
    image_folder({"train/cat": 3}, name="data/here")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MIXFAST_DATA", str(tmp_path / "data"))
    assert [len(load_split(name, "train")) for name in ("folder:here", "folder:there")] == [1, 2]
    assert len(load_split("folder:there", "train", root=tmp_path / "data")) == 2


def test_a_missing_folder(image_folder: Folder, tmp_path: Path) -> None:
    image_folder({"train/cat": 1})
    with pytest.raises(FileNotFoundError, match=rf"no folder .*pest, and none {tmp_path}/pest; {tmp_path} holds pets/"):
        load_split("folder:pest", "train", root=tmp_path)
    with pytest.raises(DataError, match="names no directory"):
        load_split("folder:", "train", root=tmp_path)


@pytest.mark.parametrize(
    ("present", "split", "missing"), [("test/cat", "train", "'train'"), ("train/cat", "test", "'test' nor 'val'")]
)
def test_a_missing_split(image_folder: Folder, present: str, split: str, missing: str) -> None:
    folder = image_folder({present: 1})
    with pytest.raises(FileNotFoundError, match=f"has no folder {missing}, expected .* holds {present[:-4]}/"):
        load_split(f"folder:{folder}", split)


def test_an_unknown_split(image_folder: Folder) -> None:
    folder = image_folder(TWO_CLASSES)
    with pytest.raises(DataError, match="split is 'tets', expected one of: train, test; did you mean 'test'"):
        load_split(f"folder:{folder}", "tets")


def test_images_without_class_folders(image_folder: Folder) -> None:
    folder = image_folder({"train": 2})
    with pytest.raises(DataError, match="one folder per class in .*train; .*holds 00.png, 01.png"):
        load_split(f"folder:{folder}", "train")


@pytest.mark.parametrize("split", ["train", "test"])
def test_an_empty_class(image_folder: Folder, split: str) -> None:
    folder = image_folder({**TWO_CLASSES, "train/fox": split == "test", "test/fox": split == "train"})
    with pytest.raises(DataError, match=rf"class folder .*{split}/fox holds no images"):
        load_split(f"folder:{folder}", split)


def test_different_classes_in_test(image_folder: Folder) -> None:
    folder = image_folder({"train/cat": 1, "train/dog": 1, "test/cat": 1, "test/fox": 1})
    with pytest.raises(DataError, match=r"only in train: dog; only in test: fox"):
        load_split(f"folder:{folder}", "test")


def test_a_truncated_jpeg(image_folder: Folder, truncated_jpeg: Callable[[Path], Path]) -> None:
    folder = image_folder({"train/cat": 3, "train/dog": 2}, size=(32, 32))
    truncated_jpeg(folder / "train/cat/01b.jpg")
    name = f"folder:{folder}"
    with pytest.raises(CorruptImageError, match=r"01b.jpg: image file is truncated .*--skip-corrupt"):
        load_split(name, "train")
    for _ in range(2):  # decoded, then from the cache: the warning and the count are there both times
        with pytest.warns(DataWarning, match="left out 1 corrupt images: .*01b.jpg"):
            train = load_split(name, "train", skip_corrupt=True)
        assert (len(train), train.skipped, train.labels.tolist()) == (5, 1, [0, 0, 0, 1, 1])
    with pytest.raises(CorruptImageError, match=r"01b.jpg"):  # the cache is there, but leaving out was not asked for
        load_split(name, "train")


def test_a_class_of_which_nothing_is_left(image_folder: Folder, truncated_jpeg: Callable[[Path], Path]) -> None:
    folder = image_folder({"train/cat": 3, "train/dog": 0}, size=(32, 32))
    truncated_jpeg(folder / "train/dog/a.jpg")
    with pytest.raises(DataError, match="corrupt files left out: no images of class 'dog'"):
        load_split(f"folder:{folder}", "train", skip_corrupt=True)
