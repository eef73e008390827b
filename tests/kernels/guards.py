"""Memory in which it shows what a kernel reads or writes outside of its tensors, and comparison with exact results."""

from __future__ import annotations

import ctypes
import mmap
import sys
from dataclasses import dataclass

import torch
from torch.utils._python_dispatch import TorchDispatchMode

GUARD = 64  # elements on either side; as many bytes at least, so that a guarded tensor is aligned like any other
PATTERN = 77


def poison(on):
    """New tensors start out as NaN (integers: the largest number), or no longer do."""
    torch.use_deterministic_algorithms(on)
    torch.utils.deterministic.fill_uninitialized_memory = True


def garbage(dtype):
    """What must neither be read nor be left standing in a result."""
    return float("nan") if dtype.is_floating_point else True if dtype == torch.bool else torch.iinfo(dtype).max


def surrounded(tensor, device="cpu"):
    """The same values with the same strides on a device: garbage before, and behind, where the host can do that, memory
    that must not be read (the process would end), so that not even a value that is thrown away is read there."""
    if tensor is None or tensor.numel() == 0:
        return tensor if tensor is None else tensor.to(device)
    extent = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    if device == "cpu" and sys.platform == "linux":
        buffer = before_the_unreadable(GUARD + extent, tensor.dtype)
    else:
        buffer = torch.empty(GUARD + extent + GUARD, dtype=tensor.dtype, device=device)
    buffer.fill_(garbage(tensor.dtype))
    once = tensor[tuple(slice(None if stride else 1) for stride in tensor.stride())]  # expanded: each element once
    buffer.as_strided(once.shape, once.stride(), GUARD).copy_(once)
    return buffer.as_strided(tensor.shape, tensor.stride(), GUARD)


def before_the_unreadable(count, dtype):
    """``count`` elements that end where a page begins that can be neither read nor written; their storage goes on into it."""
    size = count * dtype.itemsize
    readable = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = mmap.mmap(-1, readable + mmap.PAGESIZE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    forbidden = ctypes.CDLL(None).mprotect(ctypes.c_void_p(address + readable), mmap.PAGESIZE, 0)
    assert forbidden == 0
    return torch.frombuffer(memory, dtype=dtype, offset=readable - size)[:count]


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
        assert self.buffers, "nothing was allocated"
        for buffer in self.buffers:
            assert (buffer[:GUARD] == PATTERN).all() and (buffer[-GUARD:] == PATTERN).all(), "written out of bounds"


def doubled(value):
    """A floating-point tensor in float64; anything else as it is."""
    return value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


@dataclass(frozen=True)
class Summands:
    """How large, in float64, what a result sums up is. It tells what rounding costs where the plain form errs less by luck, as
    it may in a few elements, and where it is what counts as exact, in float64."""

    dtype: torch.dtype  # of the factors
    magnitudes: torch.Tensor  # of each element: the sum of its summands' absolute values
    norms: torch.Tensor  # of each element: the root of the sum of their squares

    def rounding(self, exact, roundings):
        """Of the sums, a few of their dtype, each as large as all summands together. Factors of 16 bits are rounded independently
        of each other, so that their errors add up as squares do: by at most half an ulp, which is more than 1.7 standard
        deviations, and three times that is more than five. The result is rounded once."""
        sums = roundings * torch.finfo(torch.promote_types(self.dtype, torch.float32)).eps * self.magnitudes.max()
        if self.dtype.itemsize > 2:
            return sums
        return sums + torch.finfo(self.dtype).eps / 2 * (3 * self.norms.max() + exact.abs().max())


def raised(value, power):
    """The absolute values of a floating-point tensor to a power, in float64; anything else as it is."""
    value = doubled(value)
    return value.abs() ** power if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def summands_of(dtype, results_of):
    """Of every result of a multilinear operator. ``results_of(power)``: its results from factors ``raised`` to 1, and to 2."""
    # What no summand meets may come out a little below 0.
    pairs = zip(results_of(1), results_of(2), strict=True)
    return [Summands(dtype, sums, squares.clamp_min(0).sqrt()) for sums, squares in pairs]


def assert_within_twice(got, plain, exact, name="", roundings=4, summands=None):
    """At most twice the error of the same-dtype PyTorch form against float64, or a few roundings of the dtype of the sums:
    of the result, or, where that is more, of its ``summands``."""
    assert got.shape == exact.shape and got.dtype == plain.dtype, name
    if exact.numel() == 0:
        return
    floor = roundings * torch.finfo(torch.promote_types(got.dtype, torch.float32)).eps * exact.abs().max()
    # A plain form that is no number says nothing (torch 2.11 has such a convolution in bfloat16 on some processors).
    usual = (plain.double() - exact).abs().nan_to_num(0).max()
    error, allowed = (got.double() - exact).abs().max(), 2 * usual + floor
    if summands is not None:
        allowed = max(allowed, summands.rounding(exact, roundings))
    assert error <= allowed, f"{name}: off by {error:.3g}, allowed {allowed:.3g}"
