"""Random 8-bit operations on a batch, grouped so that images which need the same kernel go through it together.

Which image gets which operation is drawn on the host, so the sizes of the groups are known without asking the device.

Legend of the dimension suffixes: D operations in a row, N chains of them (each starts at one image of the batch), n the
chains of one group, K kernels, c channels, H and (in image shapes only) W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Place = tuple[int, slice]
"""A group's position in a tensor ``[D, N]`` that lies in the groups' order: the step, and the places of its chains."""

Kernel = Callable[[Tensor, Place], Tensor]
"""One kind of operation on a group: uint8 ``[n, c, H, W]`` and the group's place to uint8 ``[n, c, H, W]``."""


@dataclass(frozen=True)
class Steps:
    """D operations in a row on each of N chains, in an order that keeps the chains of a kernel together.

    A step writes its groups one after the other and leaves the chains in that order, so the next step's indices name
    rows of it: chains are gathered once a step and never scattered back.

    rows: int64 [D + 1, N], what to gather at each step (the first: images) and, last, to restore the chains' order
    order: int64 [D, N], the chain that lies at each place after the step
    codes: int64 [D, N], the operation of that chain in the step
    counts: [D][K], the sizes of each step's groups
    """

    rows: Tensor
    order: Tensor
    codes: Tensor
    counts: list[list[int]]

    def run(self, images: Tensor, kernels: Sequence[Kernel]) -> Tensor:
        """Every chain's last image, uint8 [N, c, H, W]; 8 bits between the operations too, as with PIL images.

        images: uint8 [B, c, H, W]
        kernels: K of them, in the order of the kinds that `plan_steps` was given; each is called for its groups only
        """
        chains = images.contiguous()
        for step, counts in enumerate(self.counts):
            results, start = [chains[:0]], 0
            for kernel, count in zip(kernels, counts, strict=True):
                place = (step, slice(start, start + count))
                if count > 0:
                    results.append(kernel(chains.index_select(0, self.rows[place]), place))
                start += count
            chains = torch.cat(results)
        return chains.index_select(0, self.rows[-1])


def plan_steps(codes_DN: np.ndarray, kind_of_code: np.ndarray, batch: int, device: torch.device) -> Steps:
    """Groups the chains of each step by the kernel that they need.

    codes_DN: int64, on the host, the operation of each chain in each step
    kind_of_code: int64, the kernel, from 0, that runs each operation; K is one more than the largest
    batch: B, which divides N; chain n starts at image n % B
    device: of the images
    """
    depth = len(codes_DN)
    kinds_DN = kind_of_code[codes_DN]
    order_DN = np.argsort(kinds_DN, axis=1, kind="stable")
    place_DN = np.argsort(order_DN, axis=1)
    later_rows = np.take_along_axis(place_DN[:-1], order_DN[1:], axis=1)
    first_rows, last_rows = order_DN[:1] % max(batch, 1), place_DN[-1:]
    sorted_codes_DN = np.take_along_axis(codes_DN, order_DN, axis=1)
    # One array, so that it is one copy to the device.
    plan = np.concatenate([first_rows, later_rows, last_rows, order_DN, sorted_codes_DN])
    rows, order, codes = to_device(plan, device).split([depth + 1, depth, depth])
    num_kinds = int(kind_of_code.max()) + 1
    return Steps(rows, order, codes, [np.bincount(kinds_N, minlength=num_kinds).tolist() for kinds_N in kinds_DN])


def posterize_solarize(images: Tensor, keep: Tensor, threshold: Tensor) -> Tensor:
    """uint8 [n, c, H, W]: keep the bits of `keep` [n] (uint8), then invert what reaches `threshold` [n] (int16).

    255 and 256 are neutral; a threshold of 0 inverts the whole image.
    """
    posterized = images & keep[:, None, None, None]
    return torch.where(posterized >= threshold[:, None, None, None], 255 - posterized, posterized)


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """A copy on the device that the host does not wait for."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def check_pixels(images: Tensor, user: str) -> None:
    """Refuses anything but uint8 [B, c, H, W] with at least one pixel; `user` says who works on it."""
    if not isinstance(images, Tensor):
        raise TypeError(f"images must be a torch.Tensor, got {type(images).__name__}")
    if images.dtype != torch.uint8:
        raise TypeError(f"images must be uint8 ({user} works on 8-bit pixels), got {images.dtype}")
    if images.dim() != 4 or 0 in images.shape[1:]:
        raise ValueError(f"images must have shape [B, c, H, W] with at least one pixel, got {tuple(images.shape)}")


def check_host_rng(host_rng: np.random.Generator) -> None:
    """Refuses anything but a numpy generator."""
    if not isinstance(host_rng, np.random.Generator):
        raise TypeError(f"host_rng must be a numpy.random.Generator, got {type(host_rng).__name__}")


def check_generator(generator: torch.Generator, device: torch.device) -> None:
    """Refuses anything but a torch generator on the images' device."""
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator, got {type(generator).__name__}")
    # Without a number a generator's device is the current one.
    where = generator.device
    if where.type != device.type or where.index not in (None, device.index):
        raise ValueError(f"generator must be on the images' device {device}, got one on {generator.device}")
