"""What ``tools/aot.py`` compiles: each operator's file lists cases, and a case runs the launcher that ships.

The launcher is run on the meta device, with every launch recorded instead of made, so that the kernels are compiled with
the very arguments that they will get.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Case:
    """A call of an operator at a size that matters.

    Attributes:
        name: ``"<operator>: <what>, <dtype>, <shape>"``, unique.
        call: runs the launcher on tensors of the meta device.
        floor: bytes that any implementation moves: each input that is needed and each output, once.
        flops: multiplications and additions of its matrix products; 0 for an operator that only streams.
        dtype: what those products multiply.
    """

    name: str
    call: Callable[[], Any]
    floor: int
    flops: int = 0
    dtype: torch.dtype = torch.bfloat16


def nbytes(*tensors: Tensor | None) -> int:
    """Bytes of the tensors that are there."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor is not None)


def meta(*shape: int, dtype: torch.dtype = torch.float32, channels_last: bool = False) -> Tensor:
    """A tensor with a shape and a layout, and no memory."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(shape, dtype=dtype, device="meta", memory_format=layout)
