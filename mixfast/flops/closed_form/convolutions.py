"""Closed forms over convolutional backbones: a convolution is (kernel area) x (channels in) x (out) weights, each used once a
position forward and twice backward; the first one needs no gradient of its input."""

from __future__ import annotations

import re
from collections.abc import Iterator

from mixfast.flops.closed_form.setup import Piece, Setup

Grid = tuple[int, int]


def convolutional_form(setup: Setup, as_published: bool) -> dict[str, Piece] | None:
    """The cost of each part, or None for another kind of backbone."""
    wide = re.fullmatch(r"wrn(\d+)-(\d+)", setup.backbone)
    preact = re.fullmatch(r"preact-resnet18-(\d+)", setup.backbone)
    resnet = re.fullmatch(r"resnet18-(\d+)", setup.backbone)
    image = setup.shape.image_shape
    if wide:
        depth, width = map(int, wide.groups())
        stem, grid, taps = 16, image, 9
        body = _wide_stages(grid, depth, width)
        last, features, norm = 64 * width, _halved(grid, 2), {"norm": Piece(2 * 64 * width)}
    elif preact:
        width = int(preact[1])
        stem, grid, taps = 64, _halved(image), 9
        body = _stages_of_two(grid, stem, width, norms_in=True)
        last, features, norm = 512 * width, _halved(grid, 3), {}
    elif resnet:
        width = int(resnet[1])
        stem, grid, taps = 64 * width, _halved(image), 49
        pooled = _halved(grid)
        body = _stages_of_two(pooled, stem, width, norms_in=False)
        last, features, norm = 512 * width, _halved(pooled, 3), {"norm": Piece(2 * stem)}
    else:
        return None
    stages = {f"stages.{index}": stage for index, stage in enumerate(body)}
    encoder = _encoder(setup, stem * setup.shape.channels * taps, _area(grid), as_published)
    return {"encoder": encoder, **stages, **norm, **_exit(setup, last, _area(features))}


def _encoder(setup: Setup, weights: int, positions: int, as_published: bool) -> Piece:
    once = weights * positions
    # Encoders of one image are summed before they are applied. As published, each is applied.
    inference = setup.inputs * once if as_published else once
    training = (setup.inputs if as_published else setup.seen) * once
    return Piece(setup.encoders * weights, inference, training, training)


def _exit(setup: Setup, features: int, positions: int) -> dict[str, Piece]:
    """Pooling, which is a product where it unmixes, and the heads."""
    classes = setup.shape.num_classes
    products = setup.heads * features * classes
    heads = {"heads": Piece(products + setup.heads * classes, products, products, 2 * products)}
    if setup.method.name != "mixshare":
        return heads
    unmixed = setup.inputs * round(setup.method.unmix_fraction * features) * positions
    return {"unmix_pool": Piece(0, 0, unmixed, unmixed), **heads}


def _wide_stages(grid: Grid, depth: int, width: int) -> Iterator[Piece]:
    """(depth - 4) / 6 blocks a stage; the second convolution has the stride, the first still sees the larger grid."""
    blocks, before = (depth - 4) // 6, 16
    for stage in range(3):
        channels = 16 * 2**stage * width
        wide, narrow = _area(_halved(grid, max(0, stage - 1))), _area(_halved(grid, stage))
        piece = _convolution(9, before, channels, wide) + _convolution(9, channels, channels, narrow)
        if before != channels:
            piece += _convolution(1, before, channels, narrow)
        for _ in range(2 * (blocks - 1)):
            piece += _convolution(9, channels, channels, narrow)
        norms = 2 * before + 2 * channels + 4 * channels * (blocks - 1)
        yield piece + Piece(norms)
        before = channels


def _stages_of_two(grid: Grid, before: int, width: int, *, norms_in: bool) -> Iterator[Piece]:
    """Two blocks a stage; the first convolution has the stride. Norms are before convolutions (``norms_in``), or behind all,
    projections too."""
    for stage in range(4):
        channels, positions = 64 * 2**stage * width, _area(_halved(grid, stage))
        piece = _convolution(9, before, channels, positions)
        for _ in range(3):
            piece += _convolution(9, channels, channels, positions)
        projected = stage > 0 or before != channels
        if projected:
            piece += _convolution(1, before, channels, positions)
        norms = before + 3 * channels if norms_in else (4 + projected) * channels
        yield piece + Piece(2 * norms)
        before = channels


def _convolution(taps: int, before: int, after: int, positions: int) -> Piece:
    weights = taps * before * after
    products = weights * positions
    return Piece(weights, products, products, 2 * products)


def _halved(grid: Grid, times: int = 1) -> Grid:
    """A stride of 2 leaves half of the positions, rounded up."""
    height, width = grid
    for _ in range(times):
        height, width = -(-height // 2), -(-width // 2)
    return height, width


def _area(grid: Grid) -> int:
    return grid[0] * grid[1]
