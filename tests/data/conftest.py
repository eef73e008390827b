"""Small image folders for the data tests. Every test has a decoded cache of its own and remembers no other's."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
from PIL import Image

from mixfast.data import loading

_REAL_DATA = os.environ.get("MIXFAST_DATA")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    cache = tmp_path / "decoded-cache"
    monkeypatch.setenv("MIXFAST_CACHE", str(cache))
    monkeypatch.setattr(loading, "_training_statistics", {})
    return cache


@pytest.fixture
def real_data() -> Path:
    if not _REAL_DATA:
        pytest.skip("MIXFAST_DATA is not set: no real data here")
    return Path(_REAL_DATA)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision cannot download."""

    def refuse(*_: object, **__: object) -> None:
        raise URLError("no network here")

    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", refuse)
    monkeypatch.setattr("torchvision.datasets.utils._get_redirect_url", refuse)


@pytest.fixture
def random_pixels() -> Callable[..., np.ndarray]:
    """random_pixels(H, W, channels=3, seed=0): uint8 [H, W, c], or [H, W] for one channel."""

    def make(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
        shape = (height, width) if channels == 1 else (height, width, channels)
        return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)

    return make


@pytest.fixture
def image_folder(tmp_path: Path, random_pixels: Callable[..., np.ndarray]) -> Callable[..., Path]:
    """image_folder({"train/cat": 3, ...}, size=(H, W), channels=3): a data set of that many random PNGs per folder."""

    def make(counts: dict[str, int], *, size: tuple[int, int] = (4, 6), channels: int = 3, name: str = "pets") -> Path:
        seed = 0
        for folder, count in counts.items():
            (tmp_path / name / folder).mkdir(parents=True)
            for number in range(count):
                seed += 1
                image = Image.fromarray(random_pixels(*size, channels, seed))
                image.save(tmp_path / name / folder / f"{number:02}.png")
        return tmp_path / name

    return make


@pytest.fixture
def truncated_jpeg(random_pixels: Callable[..., np.ndarray]) -> Callable[[Path], Path]:
    """truncated_jpeg(path): writes a JPEG there whose second half is missing."""

    def make(path: Path) -> Path:
        Image.fromarray(random_pixels(32, 32)).save(path, quality=95)
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        return path

    return make
