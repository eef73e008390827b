"""What the operators' tests find without asking."""

from __future__ import annotations

import pytest
import torch
from drawing import draw_mixing
from guards import poison


@pytest.fixture(params=["none", "box", "bitmap", "coverage"])
def zone(request):
    return request.param


@pytest.fixture
def mixing_of():
    return draw_mixing


@pytest.fixture(autouse=True)
def fresh_compiler():
    """What one test compiled must not count towards another's limit of recompilations."""
    yield
    torch._dynamo.reset()


@pytest.fixture
def poisoned_outputs():
    """New tensors start out as NaN: an element that is never written stays one."""
    poison(True)
    yield
    poison(False)


@pytest.fixture
def poisoned_checks(request):
    """The same, for the functions that run in a process of their own (see running.py)."""
    poison(request.function.__name__.startswith("check_"))
    yield
    poison(False)
