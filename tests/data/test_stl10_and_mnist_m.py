"""`stl10` and `mnist-m`, from files made here in the published formats."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import torchvision.datasets
from idx_files import write_idx
from PIL import Image

from mixfast.data import DataError, load_split, mnist_m, prepare, published, why_unusable
from mixfast.data.mnist_m import PHOTOGRAPHS

RANDOM = np.random.default_rng(11)
pytestmark = pytest.mark.usefixtures("no_network")


# --- STL-10 -------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["", "stl10"])
def stl10(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, tuple[np.ndarray, list[int]]]:
    """Both splits below tmp_path or tmp_path/stl10, which torchvision is made to take for the published ones."""
    folder = tmp_path / request.param / "stl10_binary"
    folder.mkdir(parents=True)
    arrays = {}
    for split, labels in (("train", [10, 1, 7, 2]), ("test", [3, 9, 10])):
        images = RANDOM.integers(0, 256, (len(labels), 96, 96, 3), dtype=np.uint8)
        files = {
            # image by image, plane by plane, column by column
            f"{split}_X.bin": b"".join(image[:, :, c].tobytes(order="F") for image in images for c in range(3)),
            f"{split}_y.bin": bytes(labels),
        }
        for file, content in files.items():
            (folder / file).write_bytes(content)
        published_files = [[file, hashlib.md5(content).hexdigest()] for file, content in files.items()]
        monkeypatch.setattr(torchvision.datasets.STL10, f"{split}_list", published_files)
        arrays[split] = images, [label - 1 for label in labels]
    return arrays


def test_stl10(stl10: dict[str, tuple[np.ndarray, list[int]]], tmp_path: Path) -> None:
    for split, (images, labels) in stl10.items():
        image_set = load_split("stl10", split, root=tmp_path)
        np.testing.assert_array_equal(image_set.images.permute(0, 2, 3, 1).numpy(), images)
        assert image_set.labels.tolist() == labels and image_set.classes == published.STL10_CLASSES
        pixels = stl10["train"][0] / 255
        assert image_set.mean == pytest.approx(tuple(pixels.mean((0, 1, 2))), rel=1e-12)
        assert image_set.std == pytest.approx(tuple(pixels.std((0, 1, 2))), rel=1e-12)


def test_stl10_is_read_as_torchvision_reads_it(stl10: dict, tmp_path: Path) -> None:
    root = tmp_path / "stl10" if (tmp_path / "stl10").exists() else tmp_path
    theirs = torchvision.datasets.STL10(root, split="test")
    ours = load_split("stl10", "test", root=tmp_path)
    np.testing.assert_array_equal(ours.images.numpy(), theirs.data)
    assert ours.labels.tolist() == theirs.labels.tolist()


def test_stl10_is_counted_and_cached_when_it_is_prepared(stl10: dict, tmp_path: Path) -> None:
    lines = [split.describe() for split in prepare("stl10", root=tmp_path)]
    assert "stl10 (train): 4 images (the published set has 5,000), 10 classes" in lines[0] and "96x96x3" in lines[0]
    assert "stl10 (test): 3 images (the published set has 8,000)" in lines[1]
    for file in tmp_path.rglob("*_X.bin"):  # the same stamp, other pixels: what is cached is not read again
        stamp = file.stat()
        file.write_bytes(bytes(stamp.st_size))
        os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert load_split("stl10", "train", root=tmp_path).images.any()


@pytest.mark.parametrize(("file", "size"), [("train_X.bin", 4 * 27_648 - 1), ("train_X.bin", 0), ("train_y.bin", 3)])
def test_an_stl10_file_that_is_cut_off(stl10: dict, tmp_path: Path, file: str, size: int) -> None:
    (path,) = tmp_path.rglob(file)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(DataError, match=r"stl10: .*train_X.bin has .* bytes, expected 27,648 for each .*incomplete"):
        load_split("stl10", "train", root=tmp_path)


@pytest.mark.parametrize("file", ["test_X.bin", "test_y.bin"])
def test_a_changed_stl10_file_is_named_with_both_hashes(stl10: dict, tmp_path: Path, file: str) -> None:
    (path,) = tmp_path.rglob(file)
    content = path.read_bytes()
    damaged = bytes([content[0] ^ 1]) + content[1:]
    path.write_bytes(damaged)
    found, expected = (hashlib.md5(each).hexdigest() for each in (damaged, content))
    with pytest.raises(
        DataError, match=f"{path} is damaged: its MD5 is {found}, that of the published file {expected}"
    ):
        load_split("stl10", "test", root=tmp_path)


def test_stl10_that_is_not_there(tmp_path: Path) -> None:
    message = rf"stl10: not found .*downloading it failed .*Put stl10_binary.tar.gz.* into {tmp_path}, or name"
    with pytest.raises(FileNotFoundError, match=message):
        load_split("stl10", "train", root=tmp_path)


def test_torchvision_knows_hashes_of_every_stl10_file() -> None:
    kind = torchvision.datasets.STL10
    hashes = dict([*kind.train_list, *kind.test_list])
    assert all(len(hashes[f"{split}_{part}.bin"]) == 32 for split in ("train", "test") for part in "Xy")


# --- MNIST-M ------------------------------------------------------------------------------------------------------


def write_digits(folder: Path, counts: dict[str, int]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    folder.mkdir(parents=True)
    arrays = {}
    for prefix, count in counts.items():
        arrays[prefix] = RANDOM.integers(0, 256, (count, 28, 28), dtype=np.uint8), np.arange(count, dtype=np.uint8) % 10
        for kind, values in zip(("images-idx3-ubyte", "labels-idx1-ubyte"), arrays[prefix], strict=True):
            write_idx(folder / f"{prefix}-{kind}.gz", values)
    return arrays


@pytest.fixture
def digits(tmp_path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """MNIST with a few digits; Fashion-MNIST's files, which have the same names, lie beside."""
    write_idx(tmp_path / "train-images-idx3-ubyte", np.zeros((2, 28, 28), np.uint8))
    write_idx(tmp_path / "train-labels-idx1-ubyte", np.zeros(2, np.uint8))
    return write_digits(tmp_path / "MNIST/raw", {"train": 50, "t10k": 30})


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """BSDS500's folders, with as many photographs, much smaller ones."""
    folder = tmp_path / "BSR/BSDS500/data/images"
    for part, count in PHOTOGRAPHS.items():
        (folder / part).mkdir(parents=True)
        (folder / part / "Thumbs.db").write_bytes(b"as in the archive")
        for number in range(count):
            height, width = (31, 29) if number % 2 else (28, 40)
            pixels = RANDOM.integers(0, 256, (height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / part / f"{number}.jpg")
    return folder


def patches_of(files: list[Path]) -> dict[str, list[np.ndarray]]:
    """Every 28 x 28 patch of each file, float64."""
    found = {}
    for file in files:
        pixels = np.asarray(Image.open(file)).astype(np.float64)
        windows = np.lib.stride_tricks.sliding_window_view(pixels, (28, 28, 3))
        found[file.parent.name + "/" + file.name] = list(windows.reshape(-1, 28, 28, 3))
    return found


def sources_of(blended: np.ndarray, digit: np.ndarray, patches: dict[str, list[np.ndarray]]) -> list[tuple[str, int]]:
    """Which patches give `blended` under the digit, by the paper's formula."""
    return [
        (name, place)
        for name, windows in patches.items()
        for place, window in enumerate(windows)
        if np.array_equal(np.abs(window - digit[:, :, None]), blended)
    ]


def test_mnist_m_is_the_difference_of_a_digit_and_a_patch(digits: dict, photographs: Path, tmp_path: Path) -> None:
    for split, prefix, parts in (("train", "train", ("train", "val")), ("test", "t10k", ("test",))):
        image_set = load_split("mnist-m", split, root=tmp_path)
        assert image_set.labels.tolist() == digits[prefix][1].tolist() and image_set.image_shape == (28, 28)
        patches = patches_of([file for part in parts for file in (photographs / part).glob("*.jpg")])
        used = [
            sources_of(image, digit, patches)
            for image, digit in zip(image_set.images.permute(0, 2, 3, 1).numpy(), digits[prefix][0], strict=True)
        ]
        assert all(len(found) == 1 for found in used)
        assert len({name for ((name, _),) in used}) > len(used) / 2  # photographs differ, and places in them
        assert {place for ((_, place),) in used} > {0, 1, 2, 3}


def test_mnist_m_is_the_same_everywhere_and_normalised_by_its_own_pixels(
    digits: dict, photographs: Path, tmp_path: Path
) -> None:
    train = load_split("mnist-m", "train", root=tmp_path)
    again = load_split("mnist-m", "train", root=tmp_path, cache_dir=tmp_path / "another")
    assert (train.images == again.images).all()
    pixels = train.images.numpy() / 255
    assert train.mean == pytest.approx(tuple(pixels.mean((0, 2, 3))), rel=1e-12)
    assert load_split("mnist-m", "test", root=tmp_path).mean == train.mean
    assert load_split("mnist-m", "test", root=tmp_path, image_size=32).image_shape == (32, 32)


def test_the_patches_never_change_between_versions() -> None:
    """Written down once; another result means that accuracies on it are no longer comparable."""
    ramp = (np.arange(40)[:, None, None] * 5 + np.arange(40)[None, :, None] + np.zeros(3)).astype(np.uint8)
    keys = mnist_m.patch_keys("train", 4)
    first = mnist_m.blend(np.zeros((4, 1, 1), np.uint8), [ramp, ramp[::-1]], keys, "")
    assert first[:, 0, 0, 0].tolist() == [108, 84, 143, 150]
    assert not np.array_equal(keys, mnist_m.patch_keys("test", 4))


def test_mnist_m_is_prepared(digits: dict, photographs: Path, tmp_path: Path) -> None:
    lines = [split.describe() for split in prepare("mnist-m", root=tmp_path)]
    assert "mnist-m (train): 50 images (the published set has 60,000), 10 classes of 5 to 5, 28x28x3" in lines[0]
    assert "mnist-m (test): 30 images (the published set has 10,000)" in lines[1]


def test_mnist_m_names_what_is_missing_and_where_it_was_looked_for(tmp_path: Path, digits: dict) -> None:
    places = rf"{tmp_path}/BSDS500/data/images or {tmp_path}/BSR/BSDS500/data/images"
    with pytest.raises(FileNotFoundError, match=rf"mnist-m: BSDS500 not found, no folder {places}; .*BSR_bsds500.tgz"):
        load_split("mnist-m", "train", root=tmp_path)
    assert "BSDS500 not found" in why_unusable("mnist-m", tmp_path)


def test_mnist_m_without_mnist(tmp_path: Path, photographs: Path) -> None:
    message = rf"mnist-m: MNIST: not found .*failed .*Put the four .gz files of MNIST into {tmp_path}/mnist or {tmp_path}/MNIST/raw"
    with pytest.raises(FileNotFoundError, match=message):
        load_split("mnist-m", "test", root=tmp_path)
    write_digits(tmp_path / "mnist", {"train": 20, "t10k": 30})
    assert len(load_split("mnist-m", "test", root=tmp_path)) == 30


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda file: file.unlink(), r"images/val has 99 photographs, BSDS500 has 100 there"),
        (lambda file: file.write_bytes(file.read_bytes()[:300]), r"mnist-m \(train\): cannot decode .*val/7.jpg: "),
        (lambda file: Image.new("RGB", (27, 40)).save(file), r"val/7.jpg is 27x40, smaller than a digit"),
    ],
)
def test_photographs_that_are_not_bsds500s(digits: dict, photographs: Path, tmp_path: Path, spoil, message) -> None:
    spoil(photographs / "val/7.jpg")
    with pytest.raises(DataError, match=message):
        load_split("mnist-m", "train", root=tmp_path)


def test_mnist_that_is_cut_off(digits: dict, photographs: Path, tmp_path: Path) -> None:
    file = tmp_path / "MNIST/raw/t10k-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(DataError, match=f"{file}: not a whole IDX file"):
        load_split("mnist-m", "test", root=tmp_path)
