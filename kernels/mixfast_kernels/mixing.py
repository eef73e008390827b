"""The two-zone mix: which input is seen where, and how much of it.

Every mixing of the MIMO family is one small object. A sample's grid has two zones, ``inside`` and
``outside``, and each zone gives every input a weight (METHODS 1):

    w_i(b, p) = coverage(b, p) * inside[b, i] + (1 - coverage(b, p)) * outside[b, i]

``coverage`` is 1 inside a rectangle (four integers a sample, no mask stored) or where a bitmap is set, and
lies between 0 and 1 only where a coarser grid cell straddles the border of the zone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mixfast_kernels._check import check_tensor


@dataclass(frozen=True)
class Mixing:
    """A drawn mix of M inputs for a batch of B samples on a grid of H x W positions.

    Args:
        inside: float32 ``[B, M]``, the weight of each input inside the zone.
        outside: float32 ``[B, M]``, the weight of each input outside the zone.
        grid: ``(H, W)``, the positions the zone is defined on (pixels, stem features, or patch tokens).
        box: int32 ``[B, 4]`` rectangle ``(top, left, bottom, right)``, half open; it may be empty.
        bitmap: ``[B, H, W]``, bool, or float32 coverage in 0..1.

    With neither ``box`` nor ``bitmap`` the whole grid is outside. Shapes and dtypes are checked, values are not:
    that would make the host wait for the device.

    Raises:
        TypeError: an argument is not a tensor of the dtype above.
        ValueError: shapes disagree, or both ``box`` and ``bitmap`` are given.
    """

    inside: Tensor
    outside: Tensor
    grid: tuple[int, int]
    box: Tensor | None = None
    bitmap: Tensor | None = None

    def __post_init__(self) -> None:
        for name, value in (("inside", self.inside), ("outside", self.outside)):
            check_tensor(value, f"Mixing: {name}", ("B", "M"), (torch.float32, torch.float64))
        if self.inside.shape != self.outside.shape:
            raise ValueError(
                f"Mixing: inside {tuple(self.inside.shape)} and outside {tuple(self.outside.shape)} must have one shape [B, M]"
            )
        if len(self.grid) != 2 or min(self.grid) < 1:
            raise ValueError(f"Mixing: grid must be (height, width), both at least 1; got {tuple(self.grid)}")
        if self.box is not None and self.bitmap is not None:
            raise ValueError("Mixing: give a box or a bitmap, not both")
        batch = self.inside.shape[0]
        if self.box is not None:
            check_tensor(self.box, "Mixing: box", (batch, 4), (torch.int32,))
        if self.bitmap is not None:
            floats = (torch.bool, torch.float32, torch.float64)
            check_tensor(self.bitmap, "Mixing: bitmap", (batch, *self.grid), floats)
            if self.bitmap.requires_grad:
                raise ValueError("Mixing: bitmap has no gradient here, it must not require one; detach it")

    @property
    def batch_size(self) -> int:
        return self.inside.shape[0]

    @property
    def num_inputs(self) -> int:
        return self.inside.shape[1]

    def coverage(self) -> Tensor | None:
        """How much of each position lies inside: ``[B, H, W]`` in the dtype of ``inside``; None when all is outside."""
        if self.box is not None:
            rows, columns = self._box_spans(self.grid)
            return rows[:, :, None] * columns[:, None, :]
        if self.bitmap is not None:
            return self.bitmap.to(self.inside.dtype)
        return None

    def weights(self) -> Tensor:
        """The dense weights ``[B, M, H, W]``, in the dtype of ``inside``."""
        coverage = self.coverage()
        if coverage is None:
            return self.outside[:, :, None, None].expand(-1, -1, *self.grid)
        difference = (self.inside - self.outside)[:, :, None, None]
        return torch.addcmul(self.outside[:, :, None, None], coverage[:, None], difference)

    def area(self) -> Tensor:
        """The realised share of the grid that lies inside: ``[B]``."""
        if self.box is not None:
            top, left, bottom, right = self.box.unbind(1)
            cells = (bottom - top).clamp(min=0) * (right - left).clamp(min=0)
            return cells.to(self.inside.dtype) / (self.grid[0] * self.grid[1])
        if self.bitmap is not None:
            return self.bitmap.to(self.inside.dtype).mean((1, 2))
        return self.inside.new_zeros(self.batch_size)

    def ratios(self) -> Tensor:
        """The realised ratio kappa of each input, ``[B, M]``: the mean of its weights over the grid."""
        area = self.area()[:, None]
        return area * self.inside + (1 - area) * self.outside

    def faded(self, fade: float | Tensor) -> Mixing:
        """Every weight ``w`` becomes ``w + fade * (1 - w)``: fadeout unmixing (thesis 3.4.2.3).

        ``fade`` is a number or a zero-dimensional tensor in 0..1; both zones move alike, so the zone stays as it is.
        """
        return replace(
            self,
            inside=self.inside + fade * (1 - self.inside),
            outside=self.outside + fade * (1 - self.outside),
        )

    def resized(self, size: tuple[int, int], mode: str = "area") -> Mixing:
        """The same mix seen on another grid.

        ``"area"``: a cell's coverage is the exact share of its area that lies inside, so ``ratios`` are kept.
        ``"nearest"``: the source cell under a cell's centre decides, so a binary mix stays binary.

        Raises:
            ValueError: an unknown mode or an empty size.
        """
        if mode not in ("area", "nearest"):
            raise ValueError(f"Mixing.resized: mode must be 'area' or 'nearest', got {mode!r}")
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f"Mixing.resized: size must be (height, width), both at least 1; got {tuple(size)}")
        size = (int(size[0]), int(size[1]))
        if size == self.grid:
            return self
        if self.box is not None:
            return self._resized_box(size, mode)
        if self.bitmap is not None:
            return self._resized_bitmap(size, mode)
        return replace(self, grid=size)

    def rows(self, index: Tensor) -> Mixing:
        """The mix of some samples, in the order of ``index``, int64 ``[B']`` into the batch."""
        return replace(
            self,
            inside=self.inside[index],
            outside=self.outside[index],
            box=None if self.box is None else self.box[index],
            bitmap=None if self.bitmap is None else self.bitmap[index],
        )

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Mixing:
        """The same mix on another device."""

        def move(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device, non_blocking=non_blocking)

        return Mixing(move(self.inside), move(self.outside), self.grid, move(self.box), move(self.bitmap))

    def _box_spans(self, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """The share of each of ``size``'s rows and columns that the box covers: ``[B, h]`` and ``[B, w]``."""
        top, left, bottom, right = self.box.to(self.inside.dtype).unbind(1)
        return (
            _interval_share(top, bottom, self.grid[0], size[0]),
            _interval_share(left, right, self.grid[1], size[1]),
        )

    def _resized_box(self, size: tuple[int, int], mode: str) -> Mixing:
        if mode == "area":
            rows, columns = self._box_spans(size)
            return replace(self, grid=size, box=None, bitmap=rows[:, :, None] * columns[:, None, :])
        # A run of source cells maps onto a run of target cells, so the box stays a box.
        edges = []
        for axis in (0, 1):
            centres = _nearest_source(self.grid[axis], size[axis], self.box.device)
            for edge in (self.box[:, axis], self.box[:, axis + 2]):
                edges.append((centres[None, :] < edge[:, None]).sum(1, dtype=torch.int32))
        top, bottom, left, right = edges
        return replace(self, grid=size, box=torch.stack((top, left, bottom, right), 1))

    def _resized_bitmap(self, size: tuple[int, int], mode: str) -> Mixing:
        if mode == "nearest":
            rows = _nearest_source(self.grid[0], size[0], self.bitmap.device)
            columns = _nearest_source(self.grid[1], size[1], self.bitmap.device)
            return replace(self, grid=size, bitmap=self.bitmap[:, rows[:, None], columns[None, :]])
        dtype, device = self.inside.dtype, self.bitmap.device
        rows = _cell_shares(self.grid[0], size[0], dtype, device)
        columns = _cell_shares(self.grid[1], size[1], dtype, device)
        with torch.autocast(device.type, enabled=False):
            coverage = rows @ self.bitmap.to(dtype) @ columns.T
        return replace(self, grid=size, bitmap=coverage)


def _interval_share(start: Tensor, end: Tensor, source: int, target: int) -> Tensor:
    """The share of each of ``target`` equal cells covered by ``[start, end)``, given in cells of ``source``: ``[B, target]``."""
    cell = source / target
    low = torch.arange(target, device=start.device, dtype=start.dtype) * cell
    overlap = torch.minimum(end[:, None], low + cell) - torch.maximum(start[:, None], low)
    return (overlap / cell).clamp(0, 1)


def _cell_shares(source: int, target: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """``[target, source]``: the share of each target cell's length taken by each source cell; rows sum to 1."""
    start = torch.arange(source, device=device, dtype=dtype)
    return _interval_share(start, start + 1, source, target).T


def _nearest_source(source: int, target: int, device: torch.device) -> Tensor:
    """The source cell under the centre of each target cell, ``[target]`` int64, in exact integer arithmetic."""
    return (2 * torch.arange(target, device=device) + 1) * source // (2 * target)


def check_mixing(value: object, name: str, batch: int, grid: tuple[int, int] | None, device: torch.device) -> None:
    """Refuses anything but a ``Mixing`` for this batch, grid (None: any) and device."""
    if not isinstance(value, Mixing):
        raise TypeError(f"{name} must be a Mixing, got {type(value).__name__}")
    if value.batch_size != batch:
        raise ValueError(f"{name} must mix a batch of {batch} samples, got {value.batch_size}")
    if grid is not None and value.grid != grid:
        raise ValueError(f"{name}.grid must be {grid}, got {value.grid}: use {name}.resized({grid})")
    if value.inside.device != device:
        raise ValueError(f"{name} must be on {device} like the first argument, got {value.inside.device}")


def zone_gradients(mixing: Mixing, grad_weights: Tensor) -> tuple[Tensor, Tensor]:
    """From the gradient of the dense weights ``[B, M, H, W]`` to those of ``inside`` and ``outside``, ``[B, M]`` each."""
    total = grad_weights.sum((2, 3))
    coverage = mixing.coverage()
    if coverage is None:
        return torch.zeros_like(total), total
    within = (grad_weights * coverage[:, None]).sum((2, 3))
    return within, total - within
