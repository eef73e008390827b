"""Many files to one tensor: order, sizes, corrupt files, memory, and stopping early."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mixfast.data import CorruptImageError, DataError, OutOfMemoryError, decode, memory
from mixfast.data.decode import decode_files, in_parallel, resize_arrays

Pixels = Callable[..., np.ndarray]


@pytest.fixture
def files(tmp_path: Path, random_pixels: Pixels) -> list[str]:
    """A hundred 4 x 6 images, more than a thread takes at once."""
    names = [str(tmp_path / f"{number:03}.png") for number in range(100)]
    for number, name in enumerate(names):
        Image.fromarray(random_pixels(4, 6, seed=number)).save(name)
    return names


def decoded(files: list[str], **changes: object) -> decode.DecodedFiles:
    return decode_files(
        files, **({"channels": None, "image_size": None, "skip_corrupt": False, "what": "toy"} | changes)
    )


def test_images_come_in_the_order_of_the_files(files: list[str], random_pixels: Pixels) -> None:
    result = decoded(files)
    expected = np.stack([random_pixels(4, 6, seed=number) for number in range(100)])
    np.testing.assert_array_equal(result.images.numpy(), expected)
    assert result.kept == list(range(100)) and result.skipped == ()


def test_one_channel_only_if_every_image_is_grey(tmp_path: Path, files: list[str], random_pixels: Pixels) -> None:
    grey = str(tmp_path / "grey.png")
    Image.fromarray(random_pixels(4, 6, 1)).save(grey)
    assert decoded([grey, grey]).images.shape == (2, 4, 6, 1)
    assert decoded([grey, files[0]]).images.shape == (2, 4, 6, 3)
    assert decoded([grey], channels=3).images.shape == (1, 4, 6, 3)


def test_two_sizes_are_named(tmp_path: Path, files: list[str], random_pixels: Pixels) -> None:
    odd = str(tmp_path / "odd.png")
    Image.fromarray(random_pixels(5, 9)).save(odd)
    with pytest.raises(DataError, match=r"000.png is 6x4, .*odd.png is 9x5; give image_size"):
        decoded([*files, odd])
    assert decoded([*files, odd], image_size=4).images.shape == (101, 4, 4, 3)


@pytest.mark.parametrize("image_size", [None, 3])
def test_a_corrupt_file_is_named(files: list[str], image_size: int | None) -> None:
    Path(files[70]).write_bytes(b"broken")
    with pytest.raises(CorruptImageError, match=r"toy: cannot decode .*070.png: not an image; .*--skip-corrupt"):
        decoded(files, image_size=image_size)


def test_corrupt_files_are_left_out_in_place_and_counted(files: list[str], random_pixels: Pixels) -> None:
    bad = [0, 40, 41, 99]
    for position in bad:
        Path(files[position]).write_bytes(b"broken")
    result = decoded(files, skip_corrupt=True)
    good = [position for position in range(100) if position not in bad]
    assert result.kept == good
    assert result.skipped == tuple(f"{files[position]}: not an image" for position in bad)
    np.testing.assert_array_equal(result.images.numpy(), np.stack([random_pixels(4, 6, seed=n) for n in good]))


def test_nothing_left_to_decode(files: list[str]) -> None:
    for file in files[:3]:
        Path(file).write_bytes(b"broken")
    with pytest.raises(DataError, match="none of the 3 image files can be decoded"):
        decoded(files[:3], skip_corrupt=True)


def test_what_does_not_fit_is_refused_before_decoding(files: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 5000)
    monkeypatch.setattr(decode, "in_parallel", lambda *_: pytest.fail("decoding started"))
    with pytest.raises(OutOfMemoryError, match=r"100 images of 6x4 would take 7.0 KiB .* only 4.9 KiB is free"):
        decoded(files)


def test_memory_that_nothing_tells_about_is_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: None)
    memory.require_memory(10**18, "anything")


def test_a_container_may_have_less_than_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    reported = {
        "/proc/meminfo": ["MemTotal: 9000 kB", "MemAvailable: 8000 kB"],
        "/sys/fs/cgroup/memory.max": ["5000"],
        "/sys/fs/cgroup/memory.current": ["4000"],
        "/sys/fs/cgroup/memory.stat": ["anon 100", "inactive_file 1500"],
    }
    monkeypatch.setattr(memory, "_lines", lambda file: reported[str(file)])
    assert memory.available_memory() == 2500
    reported["/sys/fs/cgroup/memory.max"] = ["max"]
    assert memory.available_memory() == 8000 * 1024


def test_an_error_stops_what_has_not_started() -> None:
    done = []

    def work(position: int) -> None:
        if position == 3:
            raise KeyError("three")
        time.sleep(1e-4)  # all of them would take seconds: the error is noticed long before
        done.append(position)

    with pytest.raises(KeyError, match="three"):
        in_parallel(100_000, work, "toy")
    assert len(done) < 99_000


def test_arrays_are_resized_like_files(tmp_path: Path, files: list[str], random_pixels: Pixels) -> None:
    arrays = np.stack([random_pixels(4, 6, seed=number) for number in range(100)])
    from_files = decoded(files, image_size=3).images
    np.testing.assert_array_equal(resize_arrays(arrays, 3, "toy").numpy(), from_files.numpy())
    np.testing.assert_array_equal(resize_arrays(arrays, None, "toy").numpy(), arrays)
    assert resize_arrays(arrays[..., :1], 3, "toy").shape == (100, 3, 3, 1)
