"""FLOPs against wall-clock: the counted work of training steps over what they took."""

from __future__ import annotations

from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from mixfast.report.inputs import Inputs
from mixfast.report.measured import Contender, Timing
from mixfast.report.names import short_labels
from mixfast.report.plot import (
    REFERENCE,
    Plot,
    Table,
    digits,
    legend_below,
    log_scale,
    new_figure,
    styles,
)

HEADINGS = (
    "method", "backbone", "mode", "batch", "GFLOP", "ms [quartiles]", "of the product's rate %", "precision", "on",
)  # fmt: skip
COMPILED = "compiled"
LINES = ("--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)))


def draw_flops_time(inputs: Inputs) -> list[Plot]:
    """Needs records of steps."""
    steps = [timing for timing in inputs.timings if timing.work == "training step"]
    if not steps:
        return []
    found = [(timing, contender) for timing in steps for contender in timing.contenders]
    places = dict(zip(steps, short_labels([_description(timing) for timing in steps]), strict=True))
    colours, markers = styles(contender.method for _, contender in found), styles(places.values())
    figure, (axes,) = new_figure(3.8)
    for timing, contender in found:
        median, low, high = (1000 * seconds for seconds in contender.seconds)
        colour = colours[contender.method].color
        axes.errorbar(
            contender.flops / 1e9,
            median,
            [[median - low], [high - median]],
            fmt=markers[places[timing]].marker,
            color=colour,
            markerfacecolor=colour if contender.way == COMPILED else "none",
            markeredgewidth=1.5,
            markersize=8,
        )
    lines = _draw_rates(axes, steps)
    axes.margins(0.1)
    log_scale(axes, "x")
    log_scale(axes, "y")
    axes.set(xlabel="counted work of a training step (GFLOP)", ylabel="wall-clock of a step (ms)")
    handles: dict[str, Any] = {
        method: Line2D([], [], color=look.color, linewidth=6) for method, look in colours.items()
    }
    handles |= {
        place: Line2D([], [], color=REFERENCE, marker=look.marker, linestyle="") for place, look in markers.items()
    }
    legend_below(figure, handles | lines)
    caption = (
        "Work: the forward and backward pass as mixfast flops counts them, two FLOPs a multiply-add; time: median and quartiles of "
        "a whole step, data and optimiser included; filled: compiled, hollow: eager. On a line a step would run at the rate that a "
        "large matrix product reached among its rounds; how far it lies above is what it loses."
    )
    rows = tuple(_row(*each) for each in found)
    return [Plot("flops-time", "FLOPs against wall-clock", caption, figure, Table(HEADINGS, rows))]


def _draw_rates(axes: Axes, steps: list[Timing]) -> dict[str, Line2D]:
    """A line of constant rate for each device and precision, about its steps, by label: the fastest product in its records."""
    by_place: dict[tuple[str, ...], list[Timing]] = {}
    for timing in steps:
        by_place.setdefault(("product", timing.device, timing.precision), []).append(timing)
    lines = {}
    for label, line, timings in zip(short_labels(list(by_place)), cycle(LINES), by_place.values(), strict=False):
        rate = max(timing.product_rate for timing in timings)
        work = [contender.flops for timing in timings for contender in timing.contenders]
        ends = np.array([min(work) / 2, 2 * max(work)])
        look = {"color": REFERENCE, "linestyle": line, "linewidth": 1.2}
        (lines[f"{label}: {digits(rate / 1e12)} TFLOP/s"],) = axes.plot(ends / 1e9, 1000 * ends / rate, **look)
    return lines


def _description(timing: Timing) -> tuple[str, ...]:
    """What tells steps apart, the most telling first."""
    batch = f"batch {timing.batch_size}"
    return timing.backbone, batch, timing.precision, timing.device, timing.images, timing.record


def _row(timing: Timing, contender: Contender) -> tuple[str, ...]:
    median, low, high = (digits(1000 * seconds) for seconds in contender.seconds)
    share = contender.flops / contender.seconds[0] / timing.product_rate
    return (
        contender.method,
        timing.backbone,
        contender.way,
        str(timing.batch_size),
        digits(contender.flops / 1e9),
        f"{median} [{low}, {high}]",
        f"{100 * share:.0f}",
        timing.precision,
        timing.device,
    )
