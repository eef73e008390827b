"""Data sets that come as arrays: digits, Fashion-MNIST, CIFAR, SVHN and corrupted CIFAR, from files made here."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.datasets
from idx_files import write_idx
from sklearn.datasets import load_digits

from mixfast.data import DataError, fashion_mnist, load_split, prepare, published, split_names

RANDOM = np.random.default_rng(5)


def random_bytes(*shape: int) -> np.ndarray:
    return RANDOM.integers(0, 256, shape, dtype=np.uint8)


# --- digits -------------------------------------------------------------------------------------------------------


def test_digits_are_split_by_thirds_of_each_class(tmp_path: Path) -> None:
    raw = load_digits()
    train, test = (load_split("digits", split, root=tmp_path) for split in ("train", "test"))
    expected: dict[str, list[tuple[int, int]]] = {"train": [], "test": []}
    seen = [0] * 10
    for position, label in enumerate(raw.target):
        seen[label] += 1
        expected["test" if seen[label] % 3 == 0 else "train"].append((position, int(label)))
    for image_set in (train, test):
        positions, labels = zip(*expected[image_set.split], strict=True)
        assert image_set.labels.tolist() == list(labels)
        scaled = np.floor(raw.images[list(positions)] * 255 / 16 + 0.5)
        np.testing.assert_array_equal(image_set.images[:, 0].numpy(), scaled)
        assert len(image_set) == published.COUNTS["digits"][image_set.split]
    levels = [0, 16, 32, 48, 64, 80, 96, 112, 128, 143, 159, 175, 191, 207, 223, 239, 255]
    assert train.images.unique().tolist() == levels
    pixels = train.images.numpy().astype(np.float64) / 255
    assert test.mean == train.mean == pytest.approx((pixels.mean(),), rel=1e-12)
    assert test.std == train.std == pytest.approx((pixels.std(),), rel=1e-12)


def test_digits_can_be_enlarged_and_prepared(tmp_path: Path) -> None:
    assert load_split("digits", "test", root=tmp_path, image_size=16).images.shape == (596, 1, 16, 16)
    assert all("no cache" in split.describe() for split in prepare("digits", root=tmp_path))


# --- Fashion-MNIST ------------------------------------------------------------------------------------------------


@pytest.fixture(params=["", ".gz"])
def fashion(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, dict[str, tuple[np.ndarray, np.ndarray]]]:
    arrays = {}
    (tmp_path / "fashion-mnist").mkdir()
    for split, prefix, count in (("train", "train", 12), ("test", "t10k", 5)):
        arrays[split] = random_bytes(count, 28, 28), (np.arange(count) % 10).astype(np.uint8)
        for kind, values in zip(("images-idx3-ubyte", "labels-idx1-ubyte"), arrays[split], strict=True):
            write_idx(tmp_path / "fashion-mnist" / f"{prefix}-{kind}{request.param}", values)
    return tmp_path, arrays


def test_fashion_mnist(fashion: tuple[Path, dict]) -> None:
    root, arrays = fashion
    for split, (images, labels) in arrays.items():
        image_set = load_split("fashion-mnist", split, root=root)
        np.testing.assert_array_equal(image_set.images[:, 0].numpy(), images)
        assert image_set.labels.tolist() == labels.tolist()
        assert image_set.mean == pytest.approx((arrays["train"][0].astype(np.float64).mean() / 255,))


@pytest.mark.parametrize("count", [20, 12])
def test_a_fashion_mnist_file_that_is_cut_off(fashion: tuple[Path, dict], count: int) -> None:
    file = next((fashion[0] / "fashion-mnist").glob("train-images*"))
    file.write_bytes(file.read_bytes()[:count])
    with pytest.raises(DataError, match=f"{file}: "):
        load_split("fashion-mnist", "train", root=fashion[0])


def test_fashion_mnist_labels_that_do_not_fit(fashion: tuple[Path, dict]) -> None:
    file = next((fashion[0] / "fashion-mnist").glob("train-labels*"))
    write_idx(file, np.full(12, 10, dtype=np.uint8))
    with pytest.raises(DataError, match=r"label 10 of image 0 is out of range, expected 0..9"):
        load_split("fashion-mnist", "train", root=fashion[0])
    write_idx(file, np.zeros(11, dtype=np.uint8))
    with pytest.raises(DataError, match="holds 12 images, .* 11 labels"):
        load_split("fashion-mnist", "train", root=fashion[0])


def test_fashion_mnist_that_cannot_be_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: None
) -> None:
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path / "not installed")
    with pytest.raises(FileNotFoundError, match="downloading it failed .* Install Debian's package dataset-fashion"):
        load_split("fashion-mnist", "train", root=tmp_path)


def test_debians_fashion_mnist(tmp_path: Path) -> None:
    if not fashion_mnist.DEBIAN_FOLDER.is_dir():
        pytest.skip("Debian's package dataset-fashion-mnist is not installed")
    train, test = (load_split("fashion-mnist", split, root=tmp_path) for split in ("train", "test"))
    assert (len(train), len(test)) == (60_000, 10_000)
    assert torch.bincount(train.labels).tolist() == [6000] * 10
    # published moments of the training pixels
    assert train.mean == pytest.approx((0.2860,), abs=5e-5) and train.std == pytest.approx((0.3530,), abs=5e-5)


# --- CIFAR and SVHN -----------------------------------------------------------------------------------------------


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[np.ndarray, list[int]]]:
    """Both CIFARs below tmp_path, four images a file; torchvision's checksums of the real files are switched off."""
    arrays: dict[str, tuple[np.ndarray, list[int]]] = {}
    cifar10, cifar100 = torchvision.datasets.CIFAR10, torchvision.datasets.CIFAR100
    for kind, label_key, classes in ((cifar10, "labels", 10), (cifar100, "fine_labels", 100)):
        folder = tmp_path / kind.base_folder
        folder.mkdir()
        for attribute in ("train_list", "test_list"):
            names = [name for name, _ in getattr(kind, attribute)]
            monkeypatch.setattr(kind, attribute, [[name, None] for name in names])
            images = random_bytes(4 * len(names), 3, 32, 32)
            labels = RANDOM.integers(0, classes, 4 * len(names)).tolist()
            for number, name in enumerate(names):
                rows = slice(4 * number, 4 * number + 4)
                content = {"data": images[rows].reshape(4, -1), label_key: labels[rows]}
                (folder / name).write_bytes(pickle.dumps(content))
            arrays[f"{kind.__name__.lower()} {attribute.removesuffix('_list')}"] = images, labels
        monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": None})
        (folder / kind.meta["filename"]).write_bytes(pickle.dumps({kind.meta["key"]: ["any"] * classes}))
    return arrays


def test_cifar(cifar: dict, tmp_path: Path) -> None:
    for key, (images, labels) in cifar.items():
        name, split = key.split()
        image_set = load_split(name, split, root=tmp_path)
        np.testing.assert_array_equal(image_set.images.numpy(), images)
        assert image_set.labels.tolist() == labels
        assert (image_set.name, image_set.split, image_set.num_classes) == (name, split, int(name[5:]))
        assert image_set.mean == (0.4914, 0.4822, 0.4465)


def test_cifar_that_is_cached_is_not_read_again(cifar: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_split("cifar10", "train", root=tmp_path)
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", None)
    assert torch.equal(load_split("cifar10", "train", root=tmp_path).images, first.images)


def test_damaged_cifar(cifar: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = torchvision.datasets.CIFAR10
    monkeypatch.setattr(kind, "test_list", [["test_batch", "0" * 32]])
    with pytest.raises(DataError, match=f"cifar10: the files in {tmp_path} are damaged or incomplete"):
        load_split("cifar10", "test", root=tmp_path)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn"])
def test_a_failed_download_says_where_to_put_what(name: str, tmp_path: Path, no_network: None) -> None:
    archive = {"cifar10": "cifar-10-python.tar.gz", "cifar100": "cifar-100-python.tar.gz", "svhn": "train_32x32.mat"}
    message = rf"{name}: not found .*downloading it failed .*Put {archive[name]}.* into {tmp_path}/data, or name"
    with pytest.raises(FileNotFoundError, match=message):
        load_split(name, "train", root=tmp_path / "data")


def test_svhn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    savemat = pytest.importorskip("scipy.io").savemat
    kind = torchvision.datasets.SVHN
    images, labels = random_bytes(32, 32, 3, 6), np.array([[10], [1], [2], [9], [10], [5]], dtype=np.uint8)
    savemat(tmp_path / "test_32x32.mat", {"X": images, "y": labels})
    monkeypatch.setattr(kind, "split_list", {"test": ["", "test_32x32.mat", None]})
    test = load_split("svhn", "test", root=tmp_path)
    np.testing.assert_array_equal(test.images.numpy(), images.transpose(3, 2, 0, 1))
    assert test.labels.tolist() == [0, 1, 2, 9, 0, 5]  # the files call the digit 0 class 10


# --- corrupted CIFAR ----------------------------------------------------------------------------------------------


@pytest.fixture
def corrupted(tmp_path: Path) -> dict[str, np.ndarray]:
    """CIFAR-10-C with two images a severity, and one corruption that the benchmark leaves out."""
    folder = tmp_path / "CIFAR-10-C"
    folder.mkdir()
    arrays = {name: random_bytes(10, 32, 32, 3) for name in (*published.CORRUPTIONS, "spatter")}
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    np.save(folder / "labels.npy", np.array([3, 8] * 5))
    return arrays


def test_corrupted_cifar(corrupted: dict[str, np.ndarray], tmp_path: Path) -> None:
    benchmark = load_split("cifar10-c", "test", root=tmp_path)
    expected = np.concatenate([corrupted[name] for name in published.CORRUPTIONS])
    np.testing.assert_array_equal(benchmark.images.permute(0, 2, 3, 1).numpy(), expected)
    assert benchmark.labels.tolist() == [3, 8] * 75
    assert benchmark.classes == published.CIFAR10_CLASSES and benchmark.mean == (0.4914, 0.4822, 0.4465)

    fog = load_split("cifar10-c", "fog", root=tmp_path)
    np.testing.assert_array_equal(fog.images.permute(0, 2, 3, 1).numpy(), corrupted["fog"])
    severe = load_split("cifar10-c", "spatter/5", root=tmp_path)
    np.testing.assert_array_equal(severe.images.permute(0, 2, 3, 1).numpy(), corrupted["spatter"][8:])
    assert severe.labels.tolist() == [3, 8] and severe.split == "spatter/5"
    assert split_names("cifar10-c", tmp_path) == ("test", *published.CORRUPTIONS, "spatter")


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("train", "cifar10-c is for evaluation only and has no split 'train'; train on cifar10"),
        ("smog", "split is 'smog', expected one of: test, .*; did you mean 'fog'"),
        ("fog/6", "split is 'fog/6', expected CORRUPTION/SEVERITY, severity 1..5"),
        ("fog/", "split is 'fog/', expected CORRUPTION/SEVERITY"),
        ("test/1", "split is 'test/1', expected CORRUPTION/SEVERITY"),
    ],
)
def test_corrupted_cifar_splits_that_do_not_exist(
    corrupted: dict[str, np.ndarray], tmp_path: Path, split: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        load_split("cifar10-c", split, root=tmp_path)


def test_corrupted_cifar_files_that_do_not_fit(corrupted: dict[str, np.ndarray], tmp_path: Path) -> None:
    folder = tmp_path / "CIFAR-10-C"
    np.save(folder / "fog.npy", random_bytes(9, 32, 32, 3))
    with pytest.raises(DataError, match=r"fog.npy: expected uint8 \[N, 32, 32, 3\] with N = 10, .*got uint8 \[9, 32"):
        load_split("cifar10-c", "fog", root=tmp_path)
    (folder / "snow.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(DataError, match="snow.npy: not a whole NumPy array file"):
        load_split("cifar10-c", "snow", root=tmp_path)
    (folder / "frost.npy").unlink()
    with pytest.raises(FileNotFoundError, match="'test' is all 15 corruptions, and .* lacks frost;"):
        load_split("cifar10-c", "test", root=tmp_path)
    np.save(folder / "labels.npy", np.array([3, 10] * 5))
    with pytest.raises(DataError, match="label 10 of image 1 is out of range"):
        load_split("cifar10-c", "contrast", root=tmp_path)


def test_corrupted_cifar_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"cifar100-c: no labels.npy in .*Unpack CIFAR-100-C.tar there"):
        load_split("cifar100-c", "test", root=tmp_path)
