"""A bench small enough for tests."""

from __future__ import annotations

import pytest
import torch
from mixfast_bench.cases import Batches, synthetic_images


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """On cases this small threads only wait for each other, and for long where other processes run."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def cpu():
    return torch.device("cpu")


@pytest.fixture
def few_images(cpu):
    """Twelve images of 16 x 16 pixels, ten classes."""
    return synthetic_images(16, 10, cpu, count=12)


@pytest.fixture
def small_batches():
    """Eight samples, every image twice."""
    return Batches(8, 2)
