"""pytest-benchmark over the pipelines of the registry: ``pytest bench/test_data.py -k shared``."""

from __future__ import annotations

import pytest
import torch
from mixfast_bench.cases import Batches, synthetic_images
from mixfast_bench.command import DEFAULT_CLASSES
from mixfast_bench.measure import time_turn
from mixfast_bench.registry import PIPELINES
from mixfast_bench.runs import WARM_UP_RUNS

from mixfast.data import ImageSet


@pytest.fixture(scope="module", params=[32, 64], ids=lambda size: f"{size}x{size}")
def images(request, device: torch.device) -> ImageSet:
    return synthetic_images(request.param, DEFAULT_CLASSES, device)


@pytest.mark.parametrize("entry", PIPELINES, ids=lambda entry: entry.name)
def test_pipeline(benchmark, images, device, entry):
    contender = entry.build(images, Batches())
    time_turn(contender, WARM_UP_RUNS, device)
    benchmark.extra_info["floor_bytes"] = contender.floor_bytes
    benchmark.pedantic(time_turn, args=(contender, 5, device), rounds=20)
