"""What `data.source=auto` stands for, and what a source refuses."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from sources_here import HAS_DALI

from mixfast.data import SourceOptions, choose_source, open_images
from mixfast.data.sources import dali_presence, opening
from mixfast.errors import UnavailableError

CPU = torch.device("cpu")
SPLITS = ("train", "test")


@pytest.fixture
def pets(image_folder) -> str:
    """Twelve images of 8 x 8 in three channels: 2,304 bytes."""
    return f"folder:{image_folder({'train/cat': 5, 'train/dog': 4, 'test/cat': 2, 'test/dog': 1}, size=(8, 8))}"


@pytest.mark.parametrize(
    ("free", "share", "image_size", "resident"),
    [
        (2 * 2304, 0.5, None, True),
        (2 * 2304 - 1, 0.5, None, False),
        (2304, 1.0, None, True),
        (4 * 2304 - 1, 1.0, 16, False),
        (4 * 2304, 1.0, 16, True),
        (None, 0.5, None, True),
    ],
)
@pytest.mark.parametrize("dali", [True, False])
def test_auto_is_resident_where_that_fits(pets, free, share, image_size, resident, dali, monkeypatch) -> None:
    monkeypatch.setattr(opening, "available_memory", lambda: free)
    monkeypatch.setattr(dali_presence, "_installed", lambda: dali)
    chosen = choose_source(pets, SPLITS, options=SourceOptions(resident_share=share), device=CPU, image_size=image_size)
    assert chosen == ("resident" if resident else "dali" if dali else "torch")


def test_a_device_with_memory_of_its_own_counts_too(pets, monkeypatch) -> None:
    monkeypatch.setattr(opening, "available_memory", lambda: 10**9)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2304, 10**9))
    monkeypatch.setattr(dali_presence, "_installed", lambda: False)
    for share, expected in ((1.0, "resident"), (0.9, "torch")):
        options = SourceOptions(resident_share=share)
        assert choose_source(pets, SPLITS, options=options, device=torch.device("cuda")) == expected


def test_arrays_are_always_resident(monkeypatch) -> None:
    monkeypatch.setattr(opening, "available_memory", lambda: 0)
    assert choose_source("digits", SPLITS, options=SourceOptions(), device=CPU) == "resident"


def test_auto_opens_what_it_chooses(pets, monkeypatch) -> None:
    monkeypatch.setattr(dali_presence, "_installed", lambda: False)
    kinds = []
    for free in (10**9, 10):
        monkeypatch.setattr(opening, "available_memory", lambda free=free: free)
        kinds += [type(data).__name__ for data in open_images(pets, SPLITS, options=SourceOptions())]
    assert kinds == ["ImageSet", "ImageSet", "StreamedSet", "StreamedSet"]


def test_dali_that_is_not_installed(pets, monkeypatch) -> None:
    monkeypatch.setattr(dali_presence, "_installed", lambda: False)
    with pytest.raises(UnavailableError, match=r"data.source=dali .* not installed: pip install 'mixfast\[dali\]'"):
        open_images(pets, SPLITS, options=SourceOptions("dali"))


@pytest.mark.parametrize("kind", ["dali", "auto"])
def test_mixed_decoding_without_a_gpu(pets, kind, monkeypatch) -> None:
    monkeypatch.setattr(dali_presence, "_installed", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(opening, "available_memory", lambda: 0)
    with pytest.raises(UnavailableError, match="data.decoder=mixed .* torch sees none here; set data.decoder=cpu"):
        open_images(pets, SPLITS, options=SourceOptions(kind, decoder="mixed"))


def test_mixed_decoding_for_training_on_the_cpu(pets, monkeypatch) -> None:
    monkeypatch.setattr(dali_presence, "_installed", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(UnavailableError, match="data.decoder=mixed .* training runs on cpu"):
        open_images(pets, SPLITS, options=SourceOptions("dali", decoder="mixed"))


@pytest.mark.skipif(not HAS_DALI, reason="NVIDIA DALI is not installed")
def test_looking_for_dali_does_not_load_it() -> None:
    code = (
        "import sys, torch; from mixfast.data.sources.dali_presence import why_no_dali; "
        "assert why_no_dali('cpu', torch.device('cpu')) is None; print('nvidia.dali' in sys.modules)"
    )
    nothing_to_build = {**os.environ, "MIXFAST_BACKEND": "reference"}
    assert subprocess.check_output([sys.executable, "-c", code], text=True, env=nothing_to_build).split() == ["False"]
