"""The picture of a run: loss and learning rate, accuracy of the ensemble and of each subnetwork."""

from __future__ import annotations

from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mixfast.palette import COLOURS


def draw_curves(records: list[dict[str, Any]], title: str) -> Figure:
    """Draws the lines of ``metrics.jsonl``; needs at least one."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    loss_axis, accuracy_axis = figure.subplots(1, 2)
    figure.suptitle(title)
    epochs = [record["epoch"] for record in records]
    marker = "o" if len(records) == 1 else None

    loss_axis.plot(
        epochs, [record["loss"] for record in records], color=COLOURS[0], marker=marker, label="training loss"
    )
    loss_axis.set(xlabel="epoch", ylabel="training loss (nats, summed over heads)")
    rate_axis = loss_axis.twinx()
    rate_axis.plot(epochs, [record["lr"] for record in records], color=COLOURS[1], linestyle=":", label="learning rate")
    rate_axis.set(ylabel="learning rate", ylim=(0, None))
    lines = loss_axis.get_lines() + rate_axis.get_lines()
    loss_axis.legend(lines, [line.get_label() for line in lines], frameon=False)

    members = len(records[-1]["members"])
    if members > 1:
        for member in range(members):
            accuracy_axis.plot(
                epochs,
                [100 * record["members"][member] for record in records],
                color=COLOURS[1 + member % (len(COLOURS) - 1)],
                linestyle="--",
                linewidth=1,
                marker=marker,
                label=f"subnetwork {member + 1}",
            )
    name = "ensemble" if members > 1 else "network"
    accuracy_axis.plot(
        epochs, [100 * record["top1"] for record in records], color=COLOURS[0], marker=marker, label=name
    )
    accuracy_axis.set(xlabel="epoch", ylabel=f"top-1 accuracy on {records[-1]['split']} (%)")
    accuracy_axis.legend(frameon=False, loc="lower right")
    for axis in (loss_axis, accuracy_axis):
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.spines[["top"]].set_visible(False)
    return figure
