"""Roofline: the operators' rates under what memory and arithmetic of the same machine reached."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from mixfast.report.inputs import Inputs
from mixfast.report.measured import OperatorPass, Operators
from mixfast.report.plot import (
    REFERENCE,
    Plot,
    Style,
    Table,
    digits,
    handles_of,
    legend_below,
    log_scale,
    new_figure,
    numbered,
    styles,
)

FORWARD = "forward"


def draw_roofline(inputs: Inputs) -> list[Plot]:
    """Two plots a record of operators that has their bytes and FLOPs."""
    plots = []
    for operators in inputs.operators:
        where = f"{operators.record}: {operators.device}, {operators.precision}"
        looks = styles(each.operator for each in operators.passes)
        with_products = [each for each in operators.passes if each.flops]
        if with_products:
            plots.append(_roofline(operators, with_products, looks, where))
        plots.append(_traffic(operators.passes, looks, where))
    return numbered(plots)


def _roofline(operators: Operators, passes: Sequence[OperatorPass], looks: dict[str, Style], where: str) -> Plot:
    figure, (axes,) = new_figure(4.4)
    for each in passes:
        _mark(axes, each, looks[each.operator], each.flops / each.bytes, each.flops / each.seconds / 1e9)
    axes.margins(0.1)
    log_scale(axes, "x")
    log_scale(axes, "y")
    largest = max(operators.passes, key=lambda each: each.bytes)
    memory, fastest = largest.copy_rate, max(each.copy_rate for each in operators.passes)
    _draw_roof(
        axes, operators.product_rate, memory, "-", f"memory: copy of the largest case, {digits(memory / 1e9)} GB/s"
    )
    _draw_roof(axes, operators.product_rate, fastest, ":", f"fastest copy, of any case: {digits(fastest / 1e9)} GB/s")
    axes.set(xlabel="arithmetic intensity (FLOP/byte)", ylabel="achieved rate (GFLOP/s)")
    legend_below(figure, handles_of([axes]))
    caption = (
        f"{where}. Operators with matrix products: the FLOPs and bytes that cannot be avoided, over the measured time; "
        "filled: forward, hollow: forward + backward. Roofs are measured too: the rate of a large matrix product "
        f"({digits(operators.product_rate / 1e9)} GFLOP/s), and copies of as many bytes as the cases move, small ones in caches."
    )
    return Plot("roofline", "Roofline of the operators", caption, figure, _roofline_table(passes))


def _draw_roof(axes: Axes, product_rate: float, bandwidth: float, line: str, label: str) -> None:
    low, high = axes.get_xlim()
    ridge = product_rate / bandwidth
    intensities = np.array([low, ridge, max(high, 3 * ridge)])
    rates = np.minimum(intensities * bandwidth, product_rate)
    axes.plot(intensities, rates / 1e9, color=REFERENCE, linestyle=line, linewidth=1.3, label=label)
    axes.set_xlim(low, intensities[-1])


def _traffic(passes: Sequence[OperatorPass], looks: dict[str, Style], where: str) -> Plot:
    figure, (axes,) = new_figure(4.4)
    for each in passes:
        _mark(axes, each, looks[each.operator], each.bytes / 2**20, each.bytes / each.seconds / 1e9)
    copies = sorted({(each.bytes, each.copy_rate) for each in passes if each.direction == FORWARD})
    axes.plot(
        [moved / 2**20 for moved, _ in copies],
        [rate / 1e9 for _, rate in copies],
        color=REFERENCE,
        linewidth=1,
        marker=".",
        label="copy of as many bytes",
    )
    axes.margins(0.08)
    log_scale(axes, "x")
    log_scale(axes, "y")
    axes.set(xlabel="least traffic of a pass (MiB)", ylabel="achieved rate (GB/s)")
    legend_below(figure, handles_of([axes]))
    caption = (
        f"{where}. Every operator: the bytes that must be read or written, over the measured time; filled: forward, hollow: "
        "forward + backward. Those far below the copy that have matrix products are held back by arithmetic: see the roofline."
    )
    rows = tuple(
        (
            each.title,
            digits(each.bytes / 2**20),
            digits(1e6 * each.seconds),
            digits(each.bytes / each.seconds / 1e9),
            digits(each.copy_rate / 1e9),
        )
        for each in passes
    )
    table = Table(("operator, case, pass", "MiB", "µs", "GB/s", "copy GB/s"), rows)
    return Plot("traffic", "Memory traffic of the operators", caption, figure, table)


def _mark(axes: Axes, each: OperatorPass, style: Style, x: float, y: float) -> None:
    face = style.color if each.direction == FORWARD else "none"
    axes.plot(
        x, y, style.marker, color=style.color, markerfacecolor=face, markersize=6.5, alpha=0.85, label=each.operator
    )


def _roofline_table(passes: Sequence[OperatorPass]) -> Table:
    rows = tuple(
        (
            each.title,
            digits(each.flops / each.bytes),
            digits(1e6 * each.seconds),
            digits(each.flops / each.seconds / 1e9),
        )
        for each in passes
    )
    return Table(("operator, case, pass", "FLOP/byte", "µs", "GFLOP/s"), rows)
