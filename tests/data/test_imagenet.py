"""imagenet, imagenet100 and cub200: their official layouts in small."""

from __future__ import annotations

import hashlib
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mixfast.data import DataError, load_split, published
from mixfast.data.imagenet import listed_classes
from mixfast.data.shapes import DataShape, data_shape

SHA256 = "79f3f1552ccc478ce24bd934b4573625db584ddc1f4643ae23c994a94cb11397"
HUNDRED = listed_classes("imagenet100.txt")


def photograph(path: Path, height: int, width: int, seed: int) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return np.asarray(Image.open(path))


@pytest.fixture
def hundred(tmp_path: Path) -> Path:
    """Every class of ImageNet-100, and two that are not among them."""
    for number, wnid in enumerate((*HUNDRED, "n00000001", "n99999999")):
        photograph(tmp_path / "imagenet/train" / wnid / f"{wnid}_1.JPEG", 9, 12, number)
        photograph(tmp_path / "imagenet/val" / wnid / "ILSVRC2012_val_00000001.JPEG", 12, 9, 1000 + number)
    return tmp_path


def test_the_list_is_tian_et_als() -> None:
    text = resources.files("mixfast.data").joinpath("imagenet100.txt").read_bytes()
    assert hashlib.sha256(text).hexdigest() == SHA256
    assert len(set(HUNDRED)) == 100 and list(HUNDRED) == sorted(HUNDRED)


def test_imagenet100_is_a_hundred_classes_of_imagenet(hundred: Path) -> None:
    train = load_split("imagenet100", "train", root=hundred, image_size=8)
    assert train.classes == HUNDRED and train.labels.tolist() == list(range(100))
    assert train.images.shape == (100, 3, 8, 8) and train.mean == published.STATISTICS["imagenet"].mean
    test = load_split("imagenet100", "test", root=hundred, image_size=8)
    assert test.split == "val" and test.labels.tolist() == list(range(100))


@pytest.mark.parametrize("place", ["imagenet100", "ILSVRC2012", "ILSVRC/Data/CLS-LOC", "."])
def test_where_it_may_lie(hundred: Path, tmp_path: Path, place: str) -> None:
    target = tmp_path / "elsewhere" / place
    target.mkdir(parents=True)
    for split in ("train", "val"):
        (hundred / "imagenet" / split).rename(target / split)
    assert len(load_split("imagenet100", "test", root=tmp_path / "elsewhere", image_size=8)) == 100


def test_imagenet_has_a_thousand_classes(tmp_path: Path, hundred: Path) -> None:
    with pytest.raises(
        DataError, match=r"imagenet: .*train has 102 classes, expected 1000; for some of them, use folder:"
    ):
        load_split("imagenet", "train", root=hundred, image_size=8)
    for number in range(1000):
        photograph(tmp_path / "all/imagenet/val" / f"n{number:08}" / "a.JPEG", 8, 8, number)
    (tmp_path / "all/imagenet/train/n00000000").mkdir(parents=True)
    test = load_split("imagenet", "test", root=tmp_path / "all")
    assert test.classes == tuple(f"n{number:08}" for number in range(1000)) and test.labels.tolist() == list(
        range(1000)
    )


def test_what_is_missing_is_named(hundred: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="imagenet: no train/WNID.*Unpack ILSVRC2012_img_train.tar"):
        load_split("imagenet", "train", root=tmp_path / "imagenet" / "val", image_size=8)
    (hundred / "imagenet/train" / HUNDRED[3]).rename(hundred / "gone")
    with pytest.raises(DataError, match=rf"imagenet100: .*train lacks 1 of 100 classes: {HUNDRED[3]}"):
        load_split("imagenet100", "train", root=hundred, image_size=8)
    (hundred / "imagenet/val").rename(hundred / "sorted")
    photograph(hundred / "imagenet/val/ILSVRC2012_val_00000001.JPEG", 8, 8, 0)
    with pytest.raises(DataError, match=r"val has no folder a class, as train has: sort its images into folders"):
        load_split("imagenet100", "test", root=hundred, image_size=8)


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    folder = tmp_path / "CUB_200_2011"
    names = ("001.Black_footed_Albatross", "002.Laysan_Albatross", "003.Sooty_Albatross")
    files = [f"{name}/{name}_{number}.jpg" for name in names for number in range(3)]
    for seed, file in enumerate(files):
        photograph(folder / "images" / file, 10 + seed, 12, seed)
    lines = {
        "classes": [f"{number} {name}" for number, name in enumerate(names, 1)],
        "images": [f"{number} {file}" for number, file in enumerate(files, 1)],
        "image_class_labels": [f"{number} {1 + (number - 1) // 3}" for number in range(1, 10)],
        "train_test_split": [f"{number} {int(number % 3 != 0)}" for number in range(1, 10)],
    }
    for name, text in lines.items():
        (folder / f"{name}.txt").write_text("\n".join(text) + "\n")
    return tmp_path


def test_cub200_is_split_as_its_file_says(birds: Path) -> None:
    train, test = (load_split("cub200", split, root=birds, image_size=8) for split in ("train", "test"))
    assert train.labels.tolist() == [0, 0, 1, 1, 2, 2] and test.labels.tolist() == [0, 1, 2]
    assert train.classes[1] == "002.Laysan_Albatross" and train.mean == test.mean
    alone = load_split("cub200", "test", root=birds / "CUB_200_2011", image_size=8)
    assert (alone.images == test.images).all()


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("train_test_split", "1 1\n", r"train_test_split.txt numbers other images than images.txt \(9\)"),
        ("images", "1\n", r"images.txt, line 1: '1', expected a number and what it stands for"),
    ],
)
def test_cub200_files_that_do_not_fit_are_named(birds: Path, file: str, text: str, message: str) -> None:
    (birds / "CUB_200_2011" / f"{file}.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        load_split("cub200", "train", root=birds, image_size=8)


def test_cub200_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="cub200: no train_test_split.txt in .*Unpack CUB_200_2011.tgz there"):
        load_split("cub200", "train", root=tmp_path, image_size=8)


def test_shapes_are_known_without_a_file() -> None:
    assert data_shape("imagenet", image_size=224) == DataShape(3, (224, 224), 1000)
    assert data_shape("imagenet100", image_size=112).num_classes == 100
    assert data_shape("cub200", image_size=32, num_classes=5).num_classes == 5
    with pytest.raises(DataError, match="data.image_size is null and data.name is imagenet"):
        data_shape("imagenet")
