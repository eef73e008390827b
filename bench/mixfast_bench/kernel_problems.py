"""What a case of ``bench kernels`` is, and what cases are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from mixfast_kernels import Mixing
from torch import Tensor
from torch.nn import functional as F

INPUTS = 2

Call = Callable[..., Tensor]


@dataclass(frozen=True)
class Rival:
    """A named opponent that does less, or the same in another way, with leaves of its own; under ``torch.compile`` or not."""

    call: Call
    leaves: tuple[Tensor, ...]
    compiled: bool = False


@dataclass(frozen=True)
class Problem:
    """One operator with its arguments.

    Attributes:
        call: the operator, of the leaves.
        plain: the same thing in plain PyTorch, of the same leaves; autograd takes its gradient.
        leaves: the tensors that gradients are taken of; none where there is no backward pass.
        bytes: the least traffic of the forward pass, and of both: each tensor read or written once.
        flops: of the matrix products that cannot be avoided, likewise; (0, 0) where memory decides.
        rivals: further opponents, by name.
    """

    call: Call
    plain: Call
    leaves: tuple[Tensor, ...]
    bytes: tuple[int, int]
    flops: tuple[int, int] = (0, 0)
    rivals: Mapping[str, Rival] = field(default_factory=dict)


@dataclass(frozen=True)
class KernelCase:
    """``build(device, dtype, times)`` makes the problem, with ``times`` the batch, 1 unless said; ``streaming``: its tensors leave
    any cache and memory alone decides."""

    operator: str
    name: str
    build: Callable[..., Problem]
    streaming: bool = False

    @property
    def title(self) -> str:
        return f"{self.operator}: {self.name}"


class Maker:
    """Random tensors, on one kind of device always the same ones."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._drawn: dict[str, Any] = {"device": device, "generator": torch.Generator(device).manual_seed(0)}

    def normal(self, *shape: int, scale: float = 1.0, dtype: torch.dtype | None = None) -> Tensor:
        return (scale * torch.randn(shape, **self._drawn)).to(dtype or self.dtype)

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, **self._drawn)

    def integers(self, limit: int, *shape: int) -> Tensor:
        return torch.randint(limit, shape, **self._drawn)

    def images(self, count: int, size: int) -> Tensor:
        """uint8, channels-last, as the trainer holds them."""
        pixels = torch.randint(256, (count, size, size, 3), dtype=torch.uint8, **self._drawn)
        return pixels.permute(0, 3, 1, 2)

    def mixing(self, kind: str, batch: int, grid: tuple[int, int]) -> Mixing:
        """``box`` or ``bitmap``: each position shows one input, and which one is inside varies; ``linear``: shares of both."""
        if kind == "linear":
            share = self.uniform(batch, 1)
            weights = torch.cat((share, 1 - share), 1)
            return Mixing(weights, weights.clone(), grid)
        inside = F.one_hot(self.integers(INPUTS, batch), INPUTS).float()
        if kind == "bitmap":
            return Mixing(inside, 1 - inside, grid, bitmap=self.uniform(batch, *grid) < 0.5)
        rows = self.integers(grid[0] + 1, batch, 2).sort(1).values
        columns = self.integers(grid[1] + 1, batch, 2).sort(1).values
        box = torch.stack((rows[:, 0], columns[:, 0], rows[:, 1], columns[:, 1]), 1).int()
        return Mixing(inside, 1 - inside, grid, box=box)


def size_in_bytes(*tensors: Tensor) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
