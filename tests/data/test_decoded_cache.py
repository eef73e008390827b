"""The decoded cache: used when valid, rebuilt when not, and never what training dies of."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from mixfast.data import CacheWriteError, DataWarning, ImageSet, OutOfMemoryError, load_split, memory, prepare, source
from mixfast.data import cache as cache_module

Folder = Callable[..., Path]


@pytest.fixture
def pets(image_folder: Folder) -> str:
    return f"folder:{image_folder({'train/cat': 3, 'train/dog': 2, 'test/cat': 1, 'test/dog': 1})}"


@pytest.fixture
def decodings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by one entry for each split that is really decoded."""
    seen: list[str] = []
    decode_files = source.decode_files

    def counting(files: list[str], **options: object) -> object:
        seen.append(str(options["what"]))
        return decode_files(files, **options)

    monkeypatch.setattr(source, "decode_files", counting)
    return seen


def assert_same(first: ImageSet, second: ImageSet) -> None:
    assert torch.equal(first.images, second.images) and torch.equal(first.labels, second.labels)
    assert (first.classes, first.mean, first.std) == (second.classes, second.mean, second.std)
    assert second.images.is_contiguous(memory_format=torch.channels_last)


def cache_files(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_a_split_is_decoded_once(pets: str, decodings: list[str], own_cache: Path) -> None:
    assert_same(load_split(pets, "train"), load_split(pets, "train"))
    assert len(decodings) == 1
    assert len(cache_files(own_cache)) == 1


def test_a_test_split_needs_the_training_statistics_but_not_its_images(pets: str, decodings: list[str]) -> None:
    load_split(pets, "train")
    load_split(pets, "test")
    assert len(decodings) == 2


def test_a_new_process_takes_the_training_statistics_from_the_cache(
    pets: str, decodings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    train = load_split(pets, "train")
    monkeypatch.setattr("mixfast.data.loading._training_statistics", {})
    monkeypatch.setattr(cache_module, "load", lambda key: None)
    assert load_split(pets, "test").mean == train.mean
    assert [what.split()[-1] for what in decodings] == ["(train)", "(test)"]


def test_image_sizes_have_caches_of_their_own(pets: str, own_cache: Path) -> None:
    shapes = [load_split(pets, "train", image_size=size).image_shape for size in (None, 2, 3, 2)]
    assert shapes == [(4, 6), (2, 2), (3, 3), (2, 2)]
    assert len(cache_files(own_cache)) == 3


def test_cache_dir_wins_over_the_environment(pets: str, own_cache: Path, tmp_path: Path) -> None:
    load_split(pets, "train", cache_dir=tmp_path / "elsewhere")
    assert not own_cache.exists() and len(cache_files(tmp_path / "elsewhere")) == 1


def test_others_may_read_it_where_they_may_read_what_i_write(pets: str, own_cache: Path, tmp_path: Path) -> None:
    load_split(pets, "train")
    (tmp_path / "plain").touch()
    (file,) = own_cache.iterdir()
    assert file.stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("change", ["content", "added", "removed", "renamed"])
def test_a_changed_data_set_is_decoded_again(pets: str, own_cache: Path, change: str) -> None:
    load_split(pets, "train")
    image = Path(pets.removeprefix("folder:"), "train/cat/01.png")
    if change == "content":
        Image.new("RGB", (6, 4)).save(image)
    elif change == "added":
        Image.new("RGB", (6, 4)).save(image.with_name("01b.png"))
    elif change == "removed":
        image.unlink()
    else:
        image.rename(image.with_name("99.png"))
    with pytest.warns(DataWarning, match="is not used: it was made from other files"):
        stale = load_split(pets, "train")
    assert_same(stale, load_split(pets, "train", cache_dir=own_cache / "fresh"))
    assert_same(stale, load_split(pets, "train"))  # replaced: no warning, no second file
    assert len([name for name in cache_files(own_cache) if name != "fresh"]) == 1


def flip_a_pixel(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-200] ^= 1
    file.write_bytes(content)


def cut_off(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def fill_with_noise(file: Path) -> None:
    file.write_bytes(os.urandom(1000))


@pytest.mark.parametrize("damage", [flip_a_pixel, cut_off, empty, fill_with_noise])
def test_a_corrupt_cache_is_rebuilt(
    pets: str, own_cache: Path, decodings: list[str], damage: Callable[[Path], None]
) -> None:
    whole = load_split(pets, "train")
    (file,) = own_cache.iterdir()
    damage(file)
    with pytest.warns(DataWarning, match=f"the cache {file} is not used"):
        assert_same(whole, load_split(pets, "train"))
    assert_same(whole, load_split(pets, "train"))
    assert len(decodings) == 2


def fail_to_replace(source: object, target: object) -> None:
    raise OSError(errno.EROFS, "Read-only file system")


def fill_the_disk(tensors: object, path: Path, metadata: object) -> None:
    path.write_bytes(b"half of it")
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("target", "name", "failure", "reason"),
    [
        (os, "replace", fail_to_replace, "Read-only file system"),
        (cache_module, "save_file", fill_the_disk, "No space left on device"),
        (shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 90, 10), "the disk has 10 bytes left"),
    ],
)
def test_training_goes_on_without_a_cache_that_cannot_be_written(
    pets: str,
    own_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    target: object,
    name: str,
    failure: Callable,
    reason: str,
) -> None:
    expected = load_split(pets, "train", cache_dir=own_cache / "good")
    monkeypatch.setattr(target, name, failure)
    with pytest.warns(DataWarning, match=f"cannot write the decoded cache .*{reason}; going on without it"):
        assert_same(expected, load_split(pets, "train"))
    assert cache_files(own_cache) == ["good"]
    with pytest.raises(CacheWriteError, match=reason):
        list(prepare(pets))
    assert cache_files(own_cache) == ["good"]


def test_a_cache_folder_that_cannot_be_made(pets: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.warns(DataWarning, match="cannot write the decoded cache"):
        assert len(load_split(pets, "train", cache_dir=tmp_path / "file" / "cache")) == 5
    assert (tmp_path / "file").read_text() == "not a folder"


def test_an_interrupted_write_leaves_nothing_behind(
    pets: str, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        load_split(pets, "train")
    assert cache_files(own_cache) == []


def test_without_a_cache_the_training_split_is_still_decoded_only_once(
    pets: str, tmp_path: Path, decodings: list[str]
) -> None:
    (tmp_path / "file").touch()
    with pytest.warns(DataWarning):
        train = load_split(pets, "train", cache_dir=tmp_path / "file")
        test = load_split(pets, "test", cache_dir=tmp_path / "file")
    assert test.mean == train.mean
    assert len(decodings) == 2


def test_a_cached_split_that_does_not_fit(pets: str, monkeypatch: pytest.MonkeyPatch) -> None:
    load_split(pets, "train")
    monkeypatch.setattr(memory, "available_memory", lambda: 100)
    with pytest.raises(OutOfMemoryError, match="only 100 bytes is free"):
        load_split(pets, "train")


def test_an_invalid_set_is_not_cached(pets: str, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = cache_module.CacheEntry

    def mislabelled(decoded: source.Decoded, statistics: object) -> cache_module.CacheEntry:
        decoded.labels[0] = 7
        return original(decoded, statistics)

    monkeypatch.setattr(cache_module, "CacheEntry", mislabelled)
    with pytest.raises(ValueError, match="label 7 of image 0 is out of range"):
        load_split(pets, "train")
    assert not own_cache.exists()


def test_prepare_says_what_it_found(pets: str, own_cache: Path, decodings: list[str]) -> None:
    train, test = prepare(pets)
    assert "(train): 5 images, 2 classes of 2 to 3, 6x4x3, 360 bytes; decoded in " in train.describe()
    assert f"cache {own_cache}" in test.describe()
    assert all("already decoded, loaded in" in again.describe() for again in prepare(pets))
    assert len(decodings) == 2


def test_prepare_takes_a_val_folder_that_test_falls_back_to_once(image_folder: Folder) -> None:
    folder = image_folder({"train/cat": 1, "val/cat": 1})
    assert [split.loaded.image_set.split for split in prepare(f"folder:{folder}")] == ["train", "val"]


def test_prepare_counts_what_was_left_out(image_folder: Folder) -> None:
    folder = image_folder({"train/cat": 2, "test/cat": 1})
    (folder / "train/cat/01.png").write_bytes(b"broken")
    with pytest.warns(DataWarning, match="left out 1 corrupt"):
        train, _ = prepare(f"folder:{folder}", skip_corrupt=True)
    assert "1 corrupt left out" in train.describe()
