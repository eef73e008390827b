"""A picture of what a network sees: the first samples of a batch, their inputs, zone, mix and labels."""

from __future__ import annotations

import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from mixfast.data import Images
from mixfast.training.feed import Batch

INCHES = 1.7


def draw_contact_sheet(batch: Batch, data: Images, title: str) -> Figure:
    """A row a sample: each input as it was augmented, with its label and the weight of its loss; the share of the first input
    at each position of the mixing grid; and, where there are several inputs, their sum in pixels by these shares.

    (A network that mixes features never sees that sum: it sees each input through its encoder, weighed so.)
    """
    samples, inputs = batch.index.shape
    columns = inputs + (2 if inputs > 1 else 0)
    figure = Figure(figsize=(INCHES * columns, INCHES * 1.2 * samples + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=9)
    axes = figure.subplots(samples, columns, squeeze=False)
    pixels = _pixels(batch.images, data)[batch.index]  # [B, M, c, H, W]
    shares = batch.mixing.weights().float()
    near = F.interpolate(shares, size=pixels.shape[3:], mode="nearest")
    for row in range(samples):
        for place in range(inputs):
            _show(axes[row, place], pixels[row, place])
            axes[row, place].set_title(_caption(batch, data, row, place), fontsize=7)
        if inputs > 1:
            _show(axes[row, inputs], shares[row, :1], cmap="viridis", vmin=0, vmax=max(1.0, float(shares.max())))
            axes[row, inputs].set_title(f"share of input 1: {float(batch.mixing.ratios()[row, 0]):.2f}", fontsize=7)
            _show(axes[row, inputs + 1], (near[row, :, None] * pixels[row]).sum(0).clamp(0, 1))
            axes[row, inputs + 1].set_title("sum by share", fontsize=7)
    return figure


def _pixels(views: Tensor, data: Images) -> Tensor:
    """Normalised views as pixels in 0..1."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (data.mean, data.std))
    return (views.float() * std + mean).clamp(0, 1)


def _show(axes: Axes, image: Tensor, **options: object) -> None:
    """``[c, H, W]``; one channel is grey, or as ``options`` say."""
    if image.shape[0] == 1:
        axes.imshow(image[0].numpy(), interpolation="nearest", **{"cmap": "gray", "vmin": 0, "vmax": 1, **options})
    else:
        axes.imshow(image.permute(1, 2, 0).numpy(), interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])


def _caption(batch: Batch, data: Images, row: int, place: int) -> str:
    """The label that this input's head learns, a second one where there is one, and the weight of its loss."""
    label = data.classes[int(batch.target[row, place])]
    if batch.other is not None and batch.share is not None:
        share, other = float(batch.share[row, place]), data.classes[int(batch.other[row, place])]
        label = f"{share:.2f} {label}, {1 - share:.2f} {other}"
    return f"{label}\nloss x {float(batch.weight[row, place]):.2f}"
