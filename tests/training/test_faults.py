"""What fails in the middle of a run costs nothing: the run stops with a message, and goes on to the same bits."""

from __future__ import annotations

import errno
import io
import os
import re
import resource
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from small_runs import SMALL, StopAfter, assert_same_run
from stopped_runs import NEVER
from test_source_runs import STREAMING

from mixfast.config import Config
from mixfast.data import DataError
from mixfast.errors import MixfastError
from mixfast.recipes import load_recipe
from mixfast.training import trainer
from mixfast.training.checkpoint import load_checkpoint
from mixfast.training.run_directory import RunDirectory
from mixfast.training.session import Session

OFTEN = "training.checkpoint_minutes=0.00001"  # after every step
SHORT = ("schedule.epochs=2", "schedule.decay_epochs=[1]")
STEPS = 2 * 37


class Meanwhile:
    """A stop request that never comes, but something else happens after a step; the loop looks once a step."""

    signal_number = None

    def __init__(self, step: int, happens: Callable[[], object]) -> None:
        self.step, self.happens = step, happens

    def __bool__(self) -> bool:
        self.step -= 1
        if self.step == 0:
            self.happens()
        return False


@pytest.fixture
def disturbed(console: Console) -> Callable[..., bool]:
    """Begins a run in which something happens after a step; returns whether it finished."""

    def run(config: Config, path: Path, step: int, happens: Callable[[], object]) -> bool:
        return Session(config, RunDirectory(path), console).start(Meanwhile(step, happens))

    return run


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of ``SHORT`` that nothing disturbs."""
    path = tmp_path_factory.mktemp("undisturbed") / "run"
    config = load_recipe("quickstart", [*SMALL, *SHORT])
    assert Session(config, RunDirectory(path), Console(file=io.StringIO())).start(StopAfter(NEVER))
    return path


def cannot_be_written(path: Path) -> AbstractContextManager:
    return pytest.raises(MixfastError, match=rf"{re.escape(str(path))} cannot be written .*--resume {path.parent}$")


def written_to(path: Path, name: str) -> Path:
    """The file that is really written to: metrics.jsonl grows, others are written beside and put in the old one's place."""
    return path / (name if name == "metrics.jsonl" else f".{name}.{os.getpid()}.tmp")


@pytest.mark.parametrize("name", ["last.pt", "metrics.jsonl", "curves.png", "summary.json"])
def test_a_full_disk_costs_nothing(name, whole, small_config, run_session, disturbed, tmp_path) -> None:
    config, path = small_config(*SHORT, OFTEN), tmp_path / "run"
    place = written_to(path, name)
    with cannot_be_written(path / name):
        disturbed(config, path, 5, lambda: place.symlink_to("/dev/full"))
    assert (name == "metrics.jsonl") == place.is_symlink()
    place.unlink(missing_ok=True)
    assert not list(path.glob(".*"))
    reached = load_checkpoint(RunDirectory(path).last)["position"]["step"]
    assert reached > 0 and (reached == STEPS) == (name in ("curves.png", "summary.json"))
    assert run_session(config, path, resume=True)
    assert_same_run(whole, path)


def test_a_disk_too_full_for_weights_costs_nothing(whole, small_config, run_session, disturbed, tmp_path) -> None:
    """safetensors writes to a file of its own naming: here no file may grow to its size."""
    config, path = small_config(*SHORT), tmp_path / "run"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with cannot_be_written(path / "best.safetensors"):
            disturbed(config, path, 5, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1])))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not RunDirectory(path).best.exists() and not list(path.glob(".*"))
    assert run_session(config, path, resume=True)
    assert_same_run(whole, path)


def test_a_disk_too_full_for_events_costs_nothing(
    whole, small_config, run_session, disturbed, tmp_path, monkeypatch
) -> None:
    config, path = small_config(*SHORT), tmp_path / "run"

    def refuse(self: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched, cannot_be_written(path / "events.out"):
        disturbed(config, path, 5, lambda: patched.setattr(trainer.SummaryWriter, "flush", refuse))
    assert run_session(config, path, resume=True)
    assert_same_run(whole, path)


@pytest.fixture
def many_files(tmp_path: Path) -> Path:
    """More images than any source reads ahead: 720 to train on, 8 x 8 pixels."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 360), ("test", 5)):
        for bright, label in enumerate(("dark", "light")):
            folder = tmp_path / "many" / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 120, (8, 8, 3)).astype(np.uint8) + 100 * bright
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:03}.png")
    return tmp_path / "many"


@pytest.mark.parametrize("source", ["resident", *STREAMING])
def test_a_folder_that_vanishes_in_mid_epoch_costs_nothing(
    source, many_files, small_config, run_session, disturbed, tmp_path
) -> None:
    config = small_config(
        f"data.name=folder:{many_files}",
        f"data.source={source}",
        f"data.cache_dir={tmp_path / 'cache'}",
        "data.workers=1",
        "training.batch_size=8",
        "schedule.epochs=1",
        "schedule.decay_epochs=[]",
        "schedule.warmup_epochs=0",
        OFTEN,
    )
    assert run_session(config, tmp_path / "whole")
    path, steps = tmp_path / "parts", 720 // 4

    def vanish() -> None:
        (many_files / "train").rename(tmp_path / "elsewhere")

    if source == "resident":  # needs no file any more
        assert disturbed(config, path, 20, vanish)
    else:
        with pytest.raises(DataError, match=r"\(train\): cannot read .*/many/train/.*png: No such file .* was listed"):
            disturbed(config, path, 20, vanish)
        assert 0 < load_checkpoint(RunDirectory(path).last)["position"]["step"] < steps
        (tmp_path / "elsewhere").rename(many_files / "train")
        assert run_session(config, path, resume=True)
    assert_same_run(tmp_path / "whole", path)
