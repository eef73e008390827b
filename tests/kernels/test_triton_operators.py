"""The Triton operators under Triton's interpreter, in processes of their own: the launchers and kernels that ship."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from running import INTERPRETED, run_pytest

HERE = Path(__file__).parent
# Operator: the names of its cases in test_operators.py.
OPERATORS = {
    "augment": "augment",
    "mask_mix_encode": "encode or encoding",
    "mixed_cross_entropy": "loss",
    "source_attribution": "attribut",
    "unmix_pool": "pool",
}
ATTENTION = ("class_attention", "gated_positional_attention", "talking_heads_attention")
SHARED = "empty_batches or autocast or refused or refuses"
# Second derivatives go through the references, whatever the backend: finite differences of them are the long part.
SLOW = "gradients_and_their_gradients"

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")


def run_interpreted(file, *options):
    run_pytest(HERE / file, INTERPRETED, "--show-capture=no", *options)


@pytest.mark.parametrize("operator", OPERATORS)
def test_operator_interpreted(operator):
    run_interpreted("test_operators.py", "-k", f"({OPERATORS[operator]}) and not ({SHARED} or {SLOW})")


@pytest.mark.long
@pytest.mark.parametrize("operator", OPERATORS)
def test_derivatives_interpreted(operator):
    run_interpreted("test_operators.py", "-k", f"({OPERATORS[operator]}) and {SLOW}")


def test_what_the_operators_share_interpreted():
    run_interpreted("test_operators.py", "-k", SHARED)


@pytest.mark.parametrize("slow", [False, pytest.param(True, marks=pytest.mark.long)])
@pytest.mark.parametrize("operator", ATTENTION)
def test_attention_interpreted(operator, slow):
    """The operator's own tests; a second process has the finite differences of its derivatives."""
    run_interpreted(f"test_{operator}.py", "-k", SLOW if slow else f"not {SLOW}")


@pytest.mark.parametrize("operator", (*OPERATORS, *ATTENTION))
def test_kernels_interpreted(operator):
    """Shapes, layouts, dtypes, guards and offsets: each operator's own tests, which also run on a GPU as they are."""
    run_interpreted(f"test_triton_{operator}.py")


def test_any_shape_interpreted():
    run_interpreted("test_triton_hypothesis.py")


@pytest.mark.long
@pytest.mark.parametrize("operator", OPERATORS)
def test_many_shapes_interpreted(operator):
    run_interpreted("test_triton_hypothesis.py", "-m", "long", "-k", operator)


@pytest.mark.long
def test_many_layouts_interpreted():
    run_interpreted("test_triton_mask_mix_encode.py", "-m", "long")
