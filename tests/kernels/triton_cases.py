"""What the tests of the Triton operators share. They run on a GPU, or interpreted: ``test_triton_operators.py`` starts them so."""

from __future__ import annotations

import ctypes
import mmap
import os

import mixfast_kernels as mk
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
RUNNABLE = (INTERPRETED or torch.cuda.is_available()) and mk.backends()[DEVICE].name == "triton"

needs_triton = pytest.mark.skipif(not RUNNABLE, reason="needs a GPU, or test_triton_operators.py, which interprets")
interpreted_only = pytest.mark.skipif(not INTERPRETED, reason="looks into the interpreter")

GUARD = 64  # elements on either side; as many bytes at least, so that a guarded tensor is aligned like any other
PATTERN = 77


def garbage(dtype):
    """What must neither be read nor be left standing in a result."""
    return float("nan") if dtype.is_floating_point else True if dtype == torch.bool else torch.iinfo(dtype).max


def surrounded(tensor):
    """The same values with the same strides on the tests' device: garbage before, and behind, where the host can do that,
    memory that must not be read (the process would end), so that not even a value that is thrown away is read there."""
    if tensor is None:
        return None
    extent = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    if INTERPRETED:
        buffer = before_the_unreadable(GUARD + extent, tensor.dtype)
    else:
        buffer = torch.empty(GUARD + extent + GUARD, dtype=tensor.dtype, device=DEVICE)
    buffer.fill_(garbage(tensor.dtype))
    once = tensor[tuple(slice(None if stride else 1) for stride in tensor.stride())]  # expanded: each element once
    buffer.as_strided(once.shape, once.stride(), GUARD).copy_(once)
    return buffer.as_strided(tensor.shape, tensor.stride(), GUARD)


def before_the_unreadable(count, dtype):
    """``count`` elements that end where a page begins that can be neither read nor written."""
    size = count * dtype.itemsize
    readable = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = mmap.mmap(-1, readable + mmap.PAGESIZE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    forbidden = ctypes.CDLL(None).mprotect(ctypes.c_void_p(address + readable), mmap.PAGESIZE, 0)
    assert forbidden == 0
    return torch.frombuffer(memory, dtype=dtype, count=count, offset=readable - size)


class GuardedAllocations(TorchDispatchMode):
    """Fresh memory is garbage, and lies between guards that nothing may have touched when the context ends."""

    fresh = (torch.ops.aten.empty.memory_format, torch.ops.aten.new_empty.default, torch.ops.aten.empty_like.default)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        return self.guarded(result) if func in self.fresh else result

    def guarded(self, result):
        buffer = result.new_full((result.numel() + 2 * GUARD,), PATTERN)
        self.buffers.append(buffer)
        return buffer.as_strided(result.shape, result.stride(), GUARD).fill_(garbage(result.dtype))

    def __enter__(self):
        self.buffers = []
        return super().__enter__()

    def __exit__(self, *exception):
        super().__exit__(*exception)
        for buffer in self.buffers:
            assert (buffer[:GUARD] == PATTERN).all() and (buffer[-GUARD:] == PATTERN).all(), "written out of bounds"


def guarded_call(launcher, *args):
    """The launcher's results for surrounded inputs, in guarded memory; called twice, for the same bits."""
    args = tree_map_only(torch.Tensor, surrounded, args)
    results = []
    for _ in range(2):
        with GuardedAllocations() as guards:
            results.append(launcher(*args))
        assert guards.buffers
    first, second = (value if isinstance(value, tuple) else (value,) for value in results)
    for one, other in zip(first, second, strict=True):
        assert torch.equal(bits(one), bits(other))
    return tuple(value.cpu() for value in first)


def bits(tensor):
    return tensor.contiguous().flatten().view(torch.uint8)


def assert_as_exact(results, plain, exact):
    """No result is further from the exact one than twice the plain form's error in the same dtype, plus a little.

    The little, eight roundings in the dtype of the sums, is for a plain form that hits the exact value by luck, and for
    float64, in which the plain form counts as exact.
    """
    for result, same_dtype, expected in zip(results, plain, exact, strict=True):
        assert result.shape == expected.shape and result.dtype == same_dtype.dtype
        if expected.numel() == 0:
            continue
        rounding = torch.finfo(torch.promote_types(result.dtype, torch.float32)).eps * expected.abs().max().item()
        bar = 2 * (same_dtype.double() - expected).abs().max().item() + 8 * rounding
        assert (result.double() - expected).abs().max().item() <= bar


def doubled(value):
    return value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


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
