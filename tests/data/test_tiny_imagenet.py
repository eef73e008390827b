"""tiny-imagenet: the official layout in small."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mixfast.data import DataError, load_split, split_names

WNIDS = ("n03", "n01", "n02")  # deliberately unsorted: labels follow the file
ANNOTATIONS = {"val_0.JPEG": "n02", "val_1.JPEG": "n03", "val_10.JPEG": "n01", "val_2.JPEG": "n03"}


@pytest.fixture
def tiny(tmp_path: Path, random_pixels: Callable[..., np.ndarray]) -> Path:
    folder = tmp_path / "tiny-imagenet-200"
    for number, wnid in enumerate(WNIDS):
        images = folder / "train" / wnid / "images"
        images.mkdir(parents=True)
        (folder / "train" / wnid / f"{wnid}_boxes.txt").write_text("not needed")
        for image in range(2):
            Image.fromarray(random_pixels(8, 8, seed=10 * number + image)).save(images / f"{wnid}_{image}.JPEG")
    (folder / "val/images").mkdir(parents=True)
    for number, image in enumerate(ANNOTATIONS):
        grey = random_pixels(8, 8, 1, seed=100 + number)  # some of the real images are grey
        Image.fromarray(grey).save(folder / "val/images" / image)
    lines = [f"{image}\t{wnid}\t0\t0\t62\t62\n" for image, wnid in reversed(ANNOTATIONS.items())]
    (folder / "val/val_annotations.txt").write_text("".join(lines))
    (folder / "wnids.txt").write_text("\n".join(WNIDS) + "\n")
    (folder / "words.txt").write_text("n00\tentity\nn01\tgoldfish, Carassius\nn03\tbullfrog\n")
    return folder


def test_train(tiny: Path) -> None:
    train = load_split("tiny-imagenet", "train", root=tiny.parent)
    assert train.classes == ("bullfrog", "goldfish, Carassius", "n02")
    assert train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    first_of_n01 = np.asarray(Image.open(tiny / "train/n01/images/n01_0.JPEG"))
    np.testing.assert_array_equal(train.images[2].permute(1, 2, 0).numpy(), first_of_n01)
    assert train.mean == (0.485, 0.456, 0.406)


def test_test_is_the_annotated_validation_split(tiny: Path) -> None:
    test = load_split("tiny-imagenet", "test", root=tiny)
    assert test.split == "val"
    label_of = {wnid: label for label, wnid in enumerate(WNIDS)}
    assert test.labels.tolist() == [label_of[ANNOTATIONS[image]] for image in sorted(ANNOTATIONS)]
    for position, image in enumerate(sorted(ANNOTATIONS)):
        expected = np.asarray(Image.open(tiny / "val/images" / image).convert("RGB"))
        np.testing.assert_array_equal(test.images[position].permute(1, 2, 0).numpy(), expected)
    assert split_names("tiny-imagenet", tiny) == ("train", "test", "val")


def test_any_one_folder_with_a_wnids_file_will_do(tiny: Path) -> None:
    tiny.rename(tiny.with_name("tiny-imagenet-50"))
    assert len(load_split("tiny-imagenet", "train", root=tiny.parent)) == 6
    (tiny.with_name("another")).mkdir()
    (tiny.with_name("another") / "wnids.txt").write_text("n01")
    with pytest.raises(DataError, match="holds several .another, tiny-imagenet-50.; name one"):
        load_split("tiny-imagenet", "train", root=tiny.parent)


def test_without_words_classes_are_wordnet_ids(tiny: Path) -> None:
    (tiny / "words.txt").unlink()
    assert load_split("tiny-imagenet", "train", root=tiny).classes == WNIDS


def test_nothing_there(tmp_path: Path) -> None:
    (tmp_path / "cifar").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no wnids.txt in .*holds cifar/\. Unpack tiny-imagenet-200.zip"):
        load_split("tiny-imagenet", "train", root=tmp_path)


def test_a_label_out_of_range(tiny: Path) -> None:
    with (tiny / "val/val_annotations.txt").open("a") as file:
        file.write("val_3.JPEG\tn77\t0\t0\t1\t1\n")
    with pytest.raises(DataError, match=r"line 5: class 'n77' of val_3.JPEG is not among the 3 of wnids.txt"):
        load_split("tiny-imagenet", "test", root=tiny)


def test_a_training_class_that_is_not_listed(tiny: Path) -> None:
    (tiny / "train/n99").mkdir()
    with pytest.raises(DataError, match=r"train/n99 is a class that .*wnids.txt does not list"):
        load_split("tiny-imagenet", "train", root=tiny)


def test_images_and_annotations_must_match(tiny: Path) -> None:
    image = tiny / "val/images/val_2.JPEG"
    image.rename(image.with_name("val_9.JPEG"))
    with pytest.raises(DataError, match="val_2.JPEG is annotated but missing"):
        load_split("tiny-imagenet", "test", root=tiny)
    Image.new("RGB", (8, 8)).save(image)
    with pytest.raises(DataError, match="val_9.JPEG has no annotation"):
        load_split("tiny-imagenet", "test", root=tiny)
    (tiny / "val/val_annotations.txt").unlink()
    with pytest.raises(FileNotFoundError, match="no .*val_annotations.txt, which has the labels"):
        load_split("tiny-imagenet", "test", root=tiny)


def test_an_empty_class(tiny: Path) -> None:
    for image in (tiny / "train/n02/images").iterdir():
        image.unlink()
    with pytest.raises(DataError, match="no images of class 'n02'"):
        load_split("tiny-imagenet", "train", root=tiny)
