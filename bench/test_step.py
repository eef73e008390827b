"""pytest-benchmark over the training steps of the registry: ``pytest bench/test_step.py -k straightforward``."""

from __future__ import annotations

import pytest
import torch
from mixfast_bench.cases import Batches, synthetic_images
from mixfast_bench.command import DEFAULT_CLASSES, DEFAULT_IMAGE_SIZE
from mixfast_bench.measure import time_turn
from mixfast_bench.registry import STEPS
from mixfast_bench.runs import WARM_UP_RUNS

from mixfast.data import ImageSet
from mixfast.training.compiling import missing_compiler


@pytest.fixture(scope="module")
def images(device: torch.device) -> ImageSet:
    return synthetic_images(DEFAULT_IMAGE_SIZE, DEFAULT_CLASSES, device)


@pytest.mark.parametrize("entry", STEPS, ids=lambda entry: entry.name)
def test_step(benchmark, images, device, entry):
    missing = missing_compiler(device) if entry.compiled else None
    if missing:
        pytest.skip(missing)
    contender = entry.build(images, Batches())
    time_turn(contender, WARM_UP_RUNS, device)
    benchmark.extra_info["flops"] = contender.flops
    benchmark.pedantic(time_turn, args=(contender, 1, device), rounds=10)
