"""A record of ``bench kernels`` as a picture."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from mixfast.palette import COLOURS
from mixfast_bench.summary import KernelSummary, whole_passes

COMPILED_COLOUR, EAGER_COLOUR = COLOURS[:2]


def plot_kernels(summary: KernelSummary, title: str, path: Path) -> None:
    """How many times as long the plain form takes, a pair of bars a case, on a logarithmic axis, as a PNG.

    Raises:
        OSError: the file cannot be written.
    """
    rows = whole_passes(summary.rows)
    figure = Figure(figsize=(9, 1.6 + 0.36 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    places = range(len(rows), 0, -1)
    series = [(0.2, "eager PyTorch", EAGER_COLOUR, [row.eager for row in rows])]
    if all(row.compiled is not None for row in rows):
        series.append((-0.2, "torch.compile", COMPILED_COLOUR, [row.compiled for row in rows]))
    for offset, label, colour, ratios in series:
        times = [ratio.value.median for ratio in ratios]
        bars = axes.barh([place + offset for place in places], times, 0.38, color=colour, label=label)
        axes.bar_label(bars, fmt="%.1f", padding=2, fontsize=7)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_yticks(list(places), [f"{row.operator}: {row.name}" for row in rows], fontsize=8)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator((0.5, 1, 2, 5, 10, 20, 50)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.margins(x=0.12, y=0.01)
    axes.set_xlabel("times as long as the operator, forward + backward (augment: forward)", fontsize=8)
    figure.suptitle(title, fontsize=10)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    FigureCanvasAgg(figure).print_png(str(path))
