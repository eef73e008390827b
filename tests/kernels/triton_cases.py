"""What the tests of the Triton operators share. They run on a GPU, or interpreted: ``test_triton_operators.py`` starts them so."""

from __future__ import annotations

import os
from contextlib import nullcontext

import mixfast_kernels as mk
import pytest
import torch
from guards import GuardedAllocations, assert_within_twice, surrounded
from mixfast_kernels.selfcheck import beside
from torch.utils._pytree import tree_map_only

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
RUNNABLE = (INTERPRETED or torch.cuda.is_available()) and mk.backends()[DEVICE].name == "triton"

needs_triton = pytest.mark.skipif(not RUNNABLE, reason="needs a GPU, or test_triton_operators.py, which interprets")
interpreted_only = pytest.mark.skipif(not INTERPRETED, reason="looks into the interpreter")


def on_device(launcher, *args, guarded=False):
    """What the launcher makes of its arguments, with their strides, on the tests' device: back on the host.

    ``guarded``: tensors are surrounded by garbage, and what is allocated lies between guards.
    """

    def moved(tensor):
        return beside_garbage(tensor) if guarded or not INTERPRETED else tensor

    args = tree_map_only(torch.Tensor, moved, args)
    # What a launcher leaves to PyTorch's convolutions is held to float32 as well.
    with torch.backends.cudnn.flags(allow_tf32=False), GuardedAllocations() if guarded else nullcontext():
        results = launcher(*args)
    return tree_map_only(torch.Tensor, lambda tensor: tensor.cpu(), results)


def beside_garbage(tensor):
    """``surrounded``, on the tests' device."""
    return surrounded(tensor, DEVICE)


def guarded_call(launcher, *args):
    """The launcher's results for surrounded inputs, in guarded memory; called twice, for the same bits."""
    args = tree_map_only(torch.Tensor, beside_garbage, args)
    results = []
    for _ in range(2):
        with GuardedAllocations():
            results.append(launcher(*args))
    first, second = (value if isinstance(value, tuple) else (value,) for value in results)
    for one, other in zip(first, second, strict=True):
        assert torch.equal(bits(one), bits(other))
    return tuple(value.cpu() for value in first)


def bits(tensor):
    return tensor.contiguous().flatten().view(torch.uint8)


def assert_as_exact(results, plain, exact, summands=None):
    """``assert_within_twice`` for each result. The eight roundings are for a plain form that hits the exact value by luck, and
    for float64, in which the plain form counts as exact."""
    for *values, sizes in zip(results, plain, exact, summands or [None] * len(results), strict=True):
        assert_within_twice(*values, roundings=8, summands=sizes)


def plain_forms(reference, *arguments):
    """The reference's results for the arguments as they are and, float32 ones, three times a rounding off: of one form alone a
    result may be near by luck, most easily where its summands cancel."""
    generator = torch.Generator().manual_seed(1)

    def a_rounding_off(tensor):
        return beside(tensor, generator) if tensor.dtype == torch.float32 else tensor

    return [
        reference(*arguments),
        *(reference(*tree_map_only(torch.Tensor, a_rounding_off, arguments)) for _ in range(3)),
    ]


def furthest(forms, exact):
    """Of each result the form that is furthest from the exact one."""
    return [
        max(of_one, key=lambda plain, right=right: float((plain.double() - right).abs().max()) if plain.numel() else 0)
        for *of_one, right in zip(*forms, exact, strict=True)
    ]


@pytest.fixture
def last_program(monkeypatch):
    """Interpreted launches run their last program only, and leave their arguments' memory where it is."""
    from triton.runtime import interpreter

    run, set_index = interpreter.InterpretedFunction.run, interpreter.interpreter_builder.set_grid_idx

    def run_last(kernel, *args, grid, warmup, **kwargs):
        last = grid[0] - 1
        monkeypatch.setattr(interpreter.interpreter_builder, "set_grid_dim", lambda *_: None)
        monkeypatch.setattr(interpreter.interpreter_builder, "grid_dim", (last + 1, 1, 1))
        monkeypatch.setattr(interpreter.interpreter_builder, "set_grid_idx", lambda *_: set_index(last, 0, 0))
        run(kernel, *args, grid=(1,), warmup=warmup, **kwargs)

    monkeypatch.setattr(interpreter.InterpretedFunction, "run", run_last)
    monkeypatch.setattr(interpreter.GridExecutor, "_restore_args_dev", lambda *_: None)
