"""What the pytest-benchmark files share."""

from __future__ import annotations

import pytest
import torch
from mixfast_bench.runs import networks_apart


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(autouse=True, scope="session")
def compiled_as_alone():
    with networks_apart():
        yield
