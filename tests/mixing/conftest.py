from __future__ import annotations

from collections.abc import Callable

import pytest
import torch


@pytest.fixture
def generator() -> Callable[[int], torch.Generator]:
    """Makes a seeded generator; two with one seed give the same numbers, which is how references redraw them."""
    return lambda seed=0: torch.Generator().manual_seed(seed)
