"""The same global batch gives the same weights on several processes as on one, to rounding."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from processes import finished, torchrun
from steps_in_float64 import train_in_float64

from mixfast.training.team import ALONE

MIXVIT = [
    "model.name=convit32-1",
    "model.patch_size=2",
    "model.drop_path=0.3",
    "method.name=mixvit-embedding",
    "method.probability=0.5",
    "optimizer.name=adamw",
    "optimizer.lr=0.002",
    "training.label_smoothing=0.1",
]
SINGLE = [
    "method.name=single",
    "method.num_inputs=1",
    "method.alpha=null",
    "method.probability=0.5",
]
CASES = {
    "cut-mixmo": ["msda.kind=cutmix", "optimizer.grad_clip=1.0", "training.ema_decay=0.9"],
    "single": [*SINGLE, "data.repetition=1", "data.random_erasing=0.3", "data.autoaugment=cifar"],
    "single-cut": [*SINGLE, "data.repetition=2", "data.pad=0", "data.crop_area=[0.2, 1]", "msda.kind=mixup"],
    "single-repeated": [*SINGLE, "data.repetition=4", "data.views=shared", "model.name=resnet18-1"],
    "manifold": [
        *SINGLE,
        "data.repetition=1",
        "data.groups=8",
        "msda.kind=manifold-mixup",
        "msda.probability=1.0",
        "training.accumulation=2",
        "training.batch_norm=local",
    ],
    "mixshare": [
        "method.name=mixshare",
        "method.probability=1.0",
        "method.fade_epochs=2",
        "data.views=shared",
        "data.groups=4",
        "data.input_repetition=0.25",
    ],
    "mixvit": MIXVIT,
    "mixvit-accumulated": [*MIXVIT, "training.accumulation=4", "data.views=shared", "msda.kind=cutmix-mixup"],
}
STEPS = "schedule.max_steps=6"
# Batch norm over a part of the samples is another function: only that it is the same in all processes is compared there.
LOCAL_NORM = {"manifold"}


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> dict[str, list[str]]:
    """All of them, with one whose regions are cut out of files."""
    folder = tmp_path_factory.mktemp("data")
    for number, split, label in product(range(40), ("train", "test"), "ab"):
        (folder / "noise" / split / label).mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (16, 20, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "noise" / split / label / f"{number}.png")
    from_files = [
        f"data.name=folder:{folder / 'noise'}",
        f"data.cache_dir={folder}",
        *("data.source=torch", "data.workers=1", "data.regions=files", "data.image_size=8"),
        *("data.pad=0", "data.crop_area=[0.2, 1]", "data.repetition=2", "msda.kind=cutmix", "training.batch_size=16"),
    ]
    return {name: [*case, STEPS] for name, case in {**CASES, "from-files": from_files}.items()}


@pytest.fixture(scope="module")
def on_one_process(cases, tmp_path_factory) -> dict[str, dict[str, torch.Tensor]]:
    folder = tmp_path_factory.mktemp("one")
    return {name: train_in_float64(case, folder / name, ALONE) for name, case in cases.items()}


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.long)])
def test_weights_are_those_of_one_process(count, cases, on_one_process, tmp_path) -> None:
    cases_file = tmp_path / "cases.json"
    cases_file.write_text(json.dumps(cases))
    finished(torchrun(count, Path(__file__).with_name("steps_in_float64.py"), cases_file, tmp_path))
    for name, expected in on_one_process.items():
        got = torch.load(tmp_path / f"{name}.pt")
        assert got.keys() == expected.keys()
        if name in LOCAL_NORM:
            continue
        for key, value in expected.items():
            torch.testing.assert_close(
                got[key], value, rtol=1e-9, atol=1e-10, msg=lambda m, n=name, k=key: f"{n} {k}: {m}"
            )


@pytest.mark.parametrize("parts", [2, 8])
def test_accumulated_gradients_are_those_of_the_batch(parts, on_one_process, tmp_path) -> None:
    """Stochastic depth too is that of the whole batch; without batch norm, parts change nothing but rounding."""
    state = train_in_float64([*MIXVIT, STEPS, f"training.accumulation={parts}"], tmp_path / "run", ALONE)
    for key, value in on_one_process["mixvit"].items():
        torch.testing.assert_close(state[key], value, rtol=1e-9, atol=1e-10)
