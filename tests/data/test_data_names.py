"""Names of data sets and the folders that are looked in by default."""

from __future__ import annotations

from pathlib import Path

import pytest

from mixfast.data import DataError, data_set_names, load_split, published, split_names
from mixfast.data.paths import cache_folder, data_root
from mixfast.data.registry import find_source


def test_every_listed_name_is_found_and_described() -> None:
    names = [name for name in data_set_names() if not name.endswith(":DIR")]
    assert [find_source(name).name for name in names] == names
    assert set(names) == set(published.COUNTS)
    for prefix in ("folder", "list", "shards"):
        assert f"{prefix}:DIR" in data_set_names()
        assert find_source(f"{prefix}:some/where").name == f"{prefix}:some/where"


@pytest.mark.parametrize(("name", "nearest"), [("cifar-10", "cifar10"), ("tinyimagenet", "tiny-imagenet")])
def test_an_unknown_name_suggests_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(DataError, match=f"data.name is '{name}', expected one of: digits, .*did you mean '{nearest}'"):
        load_split(name, "train")


def test_always_train_and_test(tmp_path: Path) -> None:
    for name in ("digits", "fashion-mnist", "cifar10", "cifar100", "svhn", "stl10", "mnist-m", "tiny-imagenet"):
        assert split_names(name, tmp_path)[:2] == ("train", "test")
    with pytest.raises(DataError, match="digits: split is 'valid', expected one of: train, test"):
        load_split("digits", "valid", root=tmp_path)


def test_published_classes_are_as_many_as_the_names_say() -> None:
    assert len(set(published.CIFAR10_CLASSES)) == 10 and len(set(published.CIFAR100_CLASSES)) == 100
    assert list(published.CIFAR100_CLASSES) == sorted(published.CIFAR100_CLASSES)
    assert len(set(published.FASHION_MNIST_CLASSES)) == 10 and len(set(published.CORRUPTIONS)) == 15


def test_arguments_win_over_the_environment_and_that_over_the_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIXFAST_CACHE", "/from/environment")
    monkeypatch.setenv("MIXFAST_DATA", "/data/from/environment")
    assert cache_folder("/given") == data_root("/given") == Path("/given")
    assert (cache_folder(), data_root()) == (Path("/from/environment"), Path("/data/from/environment"))
    monkeypatch.delenv("MIXFAST_CACHE")
    monkeypatch.delenv("MIXFAST_DATA")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert (cache_folder(), data_root()) == (Path("/xdg/mixfast"), Path("/xdg/mixfast/data"))
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache_folder() == Path("/home/someone/.cache/mixfast")
    monkeypatch.setattr("sys.platform", "darwin")
    assert cache_folder() == Path("/home/someone/Library/Caches/mixfast")
