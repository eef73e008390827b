"""Real files, a few of each class, so that it takes seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mixfast.data import load_split, published

FEW = 20


def linked(source: Path, target: Path) -> None:
    """`target` gets links to the first few files of `source`."""
    target.mkdir(parents=True)
    for file in sorted(source.iterdir())[:FEW]:
        (target / file.name).symlink_to(file)


def folder_of(real_data: Path, name: str) -> Path:
    if not (real_data / name).is_dir():
        pytest.skip(f"no {name} below MIXFAST_DATA")
    return real_data / name


def test_cifar10_as_jpeg_files(real_data: Path, tmp_path: Path) -> None:
    source = folder_of(real_data, "cifar10-jpeg")
    for split in ("train", "test"):
        for name in published.CIFAR10_CLASSES:
            linked(source / split / name, tmp_path / "cifar" / split / name)
    train = load_split("folder:cifar", "train", root=tmp_path)
    assert train.images.shape == (10 * FEW, 3, 32, 32) and train.classes == published.CIFAR10_CLASSES
    assert torch.bincount(train.labels).tolist() == [FEW] * 10
    last = sorted((source / "train/truck").iterdir())[FEW - 1]
    np.testing.assert_array_equal(train.images[-1].permute(1, 2, 0).numpy(), np.asarray(Image.open(last)))
    assert load_split("folder:cifar", "test", root=tmp_path).mean == train.mean
    assert np.abs(np.array(train.mean) - published.STATISTICS["cifar10"].mean).max() < 0.05


def test_tiny_imagenet(real_data: Path, tmp_path: Path) -> None:
    source = folder_of(real_data, "tiny-imagenet-50")
    wnids = (source / "wnids.txt").read_text().split()
    for wnid in wnids:
        linked(source / "train" / wnid / "images", tmp_path / "tiny/train" / wnid / "images")
    for name in ("wnids.txt", "words.txt", "val"):
        (tmp_path / "tiny" / name).symlink_to(source / name)
    train, test = (load_split("tiny-imagenet", split, root=tmp_path) for split in ("train", "test"))
    assert train.images.shape == (50 * FEW, 3, 64, 64)
    assert test.images.shape == (2500, 3, 64, 64) and test.split == "val"
    assert torch.bincount(test.labels).tolist() == [50] * 50
    assert train.classes[0] == "goldfish, Carassius auratus"
