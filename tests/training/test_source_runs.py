"""Whole runs through sources that decode while training: the resident run's bits, stopped, killed and resumed."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import SMALL, assert_same_run, final_state

from mixfast.data.errors import DataError
from mixfast.data.sources import opening
from mixfast.data.sources.dali_presence import why_no_dali
from mixfast.recipes import load_recipe
from mixfast.training.assessment import assess
from mixfast.training.run_directory import RunDirectory
from mixfast.training.session import load_data, open_run

HAS_DALI = why_no_dali("cpu", torch.device("cpu")) is None
WITHOUT_DALI = pytest.mark.skipif(not HAS_DALI, reason="NVIDIA DALI is not installed")
STREAMING = ("torch", pytest.param("dali", marks=WITHOUT_DALI))


@pytest.fixture
def shapes(tmp_path):
    """Bright squares on the left or on the right, under noise: 60 training and 20 test images of 8 x 8 pixels, as PNGs."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 30), ("test", 10)):
        for label in ("left", "right"):
            (tmp_path / "shapes" / split / label).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 120, (8, 8, 3)).astype(np.uint8)
                pixels[2:6, slice(0, 4) if label == "left" else slice(4, 8)] += 100
                Image.fromarray(pixels).save(tmp_path / "shapes" / split / label / f"{number:02}.png")
    return tmp_path / "shapes"


def settings(folder, source):
    return (
        f"data.name=folder:{folder}",
        f"data.source={source}",
        f"data.cache_dir={folder.parent / 'cache'}",
        "data.workers=1",
        "data.repetition=2",
        "data.pad=1",
        "training.batch_size=8",
        "msda.kind=cutmix",
        "data.validation=0.2",
        "evaluation.select=validation",
        "schedule.epochs=2",
        "schedule.decay_epochs=[]",
        "schedule.warmup_epochs=0",
    )


def trained_state(path):
    """What training gave, without the record of the configuration."""
    tensors, metrics, summary, best = final_state(path)
    return {name: torch.as_tensor(value) for name, value in tensors.items()}, metrics, summary, best


@pytest.mark.parametrize("source", STREAMING)
def test_a_run_ends_in_the_resident_bits_and_so_does_a_resumed_one(source, shapes, small_config, run_session, tmp_path):
    for name in (source, "resident"):
        assert run_session(small_config(*settings(shapes, name)), tmp_path / name)
    (tensors, *rest), (expected, *others) = trained_state(tmp_path / source), trained_state(tmp_path / "resident")
    assert all(torch.equal(tensors[name], value) for name, value in expected.items()) and rest == others

    path, stops = tmp_path / "parts", random.Random(source)
    finished = run_session(small_config(*settings(shapes, source)), path, stop_after=stops.randrange(3, 9))
    pauses = 0
    while not finished:
        pauses += 1
        finished = run_session(open_run(path)[0], path, stop_after=stops.randrange(9, 30), resume=True)
    assert pauses >= 1
    assert_same_run(tmp_path / source, path)
    assert assess([str(path)]).metrics["top1"] == RunDirectory(path).read_summary()["top1"]


CUT = ("data.pad=0", "data.crop_area=[0.2, 1]", "data.image_size=8")
STORED = (*CUT, "data.stored_size=12")
FROM_FILES = (*CUT, "data.regions=files")


@pytest.mark.parametrize(
    ("source", "crop"),
    [
        ("resident", CUT),
        ("resident", STORED),
        *(pytest.param(*pair, marks=WITHOUT_DALI) for pair in (("dali", STORED), ("dali", FROM_FILES))),
        ("torch", FROM_FILES),
    ],
)
def test_a_cropped_run_stopped_anywhere_ends_in_the_same_bits(
    source, crop, shapes, small_config, run_session, tmp_path
):
    config = small_config(*settings(shapes, source), *crop)
    assert run_session(config, tmp_path / "whole")
    path = tmp_path / "parts"
    assert not run_session(config, path, stop_after=5)
    assert torch.load(RunDirectory(path).last, weights_only=True)["position"]["step"]
    assert run_session(open_run(path)[0], path, resume=True)
    assert_same_run(tmp_path / "whole", path)
    assert assess([str(path)]).metrics["top1"] == RunDirectory(path).read_summary()["top1"]


def test_auto_cuts_files_by_a_source_that_decodes(shapes, small_config, run_session, tmp_path):
    config = small_config(*settings(shapes, "auto"), *FROM_FILES, "schedule.max_steps=1")
    assert run_session(config, tmp_path / "run")
    assert open_run(tmp_path / "run")[0].data.source == ("dali" if HAS_DALI else "torch")


@pytest.mark.parametrize("select", ["validation", "test"])
@pytest.mark.parametrize("source", ["resident", "torch"])
def test_what_is_evaluated_has_the_size_of_the_views(source, select, shapes, small_config):
    """And the very pixels and statistics of a run that stores nothing larger."""
    select = f"evaluation.select={select}"
    plain = load_data(small_config(*settings(shapes, source), *CUT, select), torch.device("cpu"))
    larger = load_data(small_config(*settings(shapes, source), *STORED, select), torch.device("cpu"))
    assert larger.train.shape[2:] == (12, 12) and larger.train.image_shape == (8, 8)
    assert torch.equal(larger.train.labels, plain.train.labels)
    for one, other in ((larger.held_out, plain.held_out), (larger.test, plain.test)):
        assert one.shape == other.shape and one.identity() == other.identity()
    assert (larger.train.mean, larger.train.std) == (plain.train.mean, plain.train.std)


@pytest.mark.long
@pytest.mark.parametrize("source", STREAMING)
def test_killed_in_mid_epoch_and_resumed(source, shapes, small_config, run_session, tmp_path):
    overrides = (*settings(shapes, source), "training.checkpoint_minutes=0.0005", "schedule.epochs=15")
    assert run_session(small_config(*overrides), tmp_path / "whole")
    path = tmp_path / "killed"
    command = [sys.executable, "-m", "mixfast", "train", "quickstart", "--out", str(path), *SMALL, *overrides]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    last, deadline = RunDirectory(path).last, time.monotonic() + 600
    while process.poll() is None and not (last.exists() and torch.load(last, weights_only=True)["position"]["step"]):
        assert time.monotonic() < deadline, "no checkpoint within ten minutes"
        time.sleep(0.01)
    assert process.poll() is None, "it ended before it could be killed"
    process.kill()
    output, _ = process.communicate()
    assert f"source: {source}, decoded" in output
    assert run_session(open_run(path)[0], path, resume=True)
    assert_same_run(tmp_path / "whole", path)


def test_what_auto_chose_is_kept_by_a_resume(shapes, small_config, run_session, tmp_path, monkeypatch):
    path, config = tmp_path / "run", small_config(*settings(shapes, "auto"))
    assert not run_session(config, path, stop_after=5)
    assert open_run(path)[0].data.source == "resident"
    monkeypatch.setattr(opening, "available_memory", lambda: 0)
    assert run_session(config, path, resume=True)
    assert open_run(path)[0].data.source == "resident"


@pytest.mark.parametrize("source", STREAMING)
def test_a_broken_file_stops_the_run_with_its_name(source, shapes, small_config, run_session, tmp_path):
    run_session(small_config(*settings(shapes, source), "schedule.max_steps=1"), tmp_path / "statistics are known")
    stamp = (shapes / "train/left/07.png").stat()
    broken = b"x" * stamp.st_size
    (shapes / "train/left/07.png").write_bytes(broken)
    os.utime(shapes / "train/left/07.png", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    with pytest.raises(DataError, match=r"cannot decode .*left/07.png"):
        run_session(small_config(*settings(shapes, source)), tmp_path / "run")


RECIPES = {
    # Table 3.5, on the classes that are at hand.
    "tiny-imagenet-preact-resnet18-1-cut-mixmo-b4": ("two_tiny_classes", ("training.batch_size=8",)),
    # Table 4.2b, on a folder in ImageNet's layout with pictures of several sizes.
    "vit-imagenet100-convit-mixvit-embedding-twice-decay": (
        "imagenet_layout",
        ("training.batch_size=6", "data.name=folder:two-classes"),
    ),
}


@pytest.fixture
def imagenet_layout(tmp_path):
    """two-classes/{train,val}/CLASS/*.JPEG: two classes of larger pictures than the recipe's 224 pixels."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 2)):
        for wordnet_id in ("n01440764", "n01443537"):
            (tmp_path / "two-classes" / split / wordnet_id).mkdir(parents=True)
            for number in range(count):
                blocks = Image.fromarray(rng.integers(0, 256, (8, 8, 3)).astype(np.uint8))
                size = tuple(int(side) for side in rng.integers(230, 500, 2))
                blocks.resize(size, Image.Resampling.BICUBIC).save(
                    tmp_path / "two-classes" / split / wordnet_id / f"{number}.JPEG", quality=90
                )
    return tmp_path


@pytest.fixture
def two_tiny_classes(tmp_path):
    """The first two classes of the Tiny ImageNet at hand, in its layout; fewer images to evaluate on."""
    data = os.environ.get("MIXFAST_DATA")
    whole = next(iter(Path(data).glob("*/wnids.txt")), None) if data else None
    if whole is None:
        pytest.skip("no Tiny ImageNet in MIXFAST_DATA")
    part, wordnet_ids = tmp_path / "tiny-imagenet-200", whole.read_text().split()[:2]
    (part / "train").mkdir(parents=True)
    (part / "val/images").mkdir(parents=True)
    (part / "wnids.txt").write_text("\n".join(wordnet_ids))
    for wordnet_id in wordnet_ids:
        (part / "train" / wordnet_id).symlink_to(whole.parent / "train" / wordnet_id)
    lines = (whole.parent / "val/val_annotations.txt").read_text().splitlines()
    lines = [line for line in lines if line.split("\t")[1] in wordnet_ids]
    (part / "val/val_annotations.txt").write_text("\n".join(lines))
    for image in (line.split("\t")[0] for line in lines):
        (part / "val/images" / image).symlink_to(whole.parent / "val/images" / image)
    return tmp_path


@pytest.mark.long
@pytest.mark.parametrize("source", ["resident", *STREAMING])
@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_run_and_resume_in_mid_epoch(recipe, source, request, run_session, tmp_path):
    """As they stand, but for the number of classes, the batch size and the number of steps."""
    data = request.getfixturevalue(RECIPES[recipe][0])
    overrides = (*RECIPES[recipe][1], f"data.source={source}", "schedule.max_steps=3", "training.compile=off")
    config = load_recipe(recipe, [*overrides, f"data.cache_dir={tmp_path / 'cache'}"], data_dir=data)
    assert run_session(config, tmp_path / "whole")
    assert not run_session(config, tmp_path / "parts", stop_after=1)
    assert torch.load(RunDirectory(tmp_path / "parts").last, weights_only=True)["position"]["step"] == 2
    assert run_session(config, tmp_path / "parts", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
