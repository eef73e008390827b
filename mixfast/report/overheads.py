"""Overheads: how much longer a method takes than the plain network, by method and backbone."""

from __future__ import annotations

from textwrap import fill

from matplotlib.patches import Patch

from mixfast.report.inputs import Inputs
from mixfast.report.measured import Overhead, Timing
from mixfast.report.names import short_labels
from mixfast.report.plot import REFERENCE, Plot, Table, legend_below, new_figure, styles

HEADINGS = (
    "method", "backbone", "of", "batch", "", "precision", "on", "overhead %", "95% interval %", "refused",
)  # fmt: skip
LONGEST_LABEL = 30


def draw_overheads(inputs: Inputs) -> list[Plot]:
    """Needs records of steps or inference with a plain network in them."""
    found = [(timing, overhead) for timing in inputs.timings for overhead in timing.overheads]
    if not found:
        return []
    labels = [fill(label, LONGEST_LABEL) for label in short_labels([_description(*each) for each in found], always=2)]
    looks = styles(overhead.method for _, overhead in found)
    figure, (axes,) = new_figure(0.8 + 0.44 * len(found))
    for place, (_, overhead) in enumerate(found):
        colour = looks[overhead.method].color
        look = {"facecolor": "white", "edgecolor": colour, "hatch": "////"} if overhead.refusal else {"color": colour}
        axes.barh(place, _percent(overhead.median), 0.62, **look)
        ends = [_percent(end) for end in overhead.interval]
        axes.plot(ends, [place, place], color="black", linewidth=1.4, marker="|", markersize=8)
    axes.axvline(0, color="black", linewidth=1)
    axes.set_yticks(range(len(found)), labels)
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    axes.margins(x=0.08)
    axes.set_xlabel("longer than the plain network (%)")
    handles = {method: Patch(color=look.color) for method, look in looks.items()}
    if any(overhead.refusal for _, overhead in found):
        handles["refused: not known well"] = Patch(facecolor="white", edgecolor=REFERENCE, hatch="////")
    legend_below(figure, handles)
    caption = (
        "Median over the rounds of a method's time over the plain network's of the same round, less 1; whiskers: the 95% "
        "confidence interval of that median, or its quartiles where the rounds are too few for one. A hatched ratio was refused by "
        "the bench: it is not known well enough to be quoted."
    )
    rows = tuple(_row(*each) for each in found)
    return [Plot("overheads", "Overhead over the plain network", caption, figure, Table(HEADINGS, rows, texts=7))]


def _description(timing: Timing, overhead: Overhead) -> tuple[str, ...]:
    """What tells overheads apart, the most telling first."""
    batch = f"batch {timing.batch_size}"
    return (
        overhead.method,
        timing.backbone,
        timing.work,
        batch,
        overhead.way,
        timing.precision,
        timing.device,
        timing.images,
        timing.record,
    )


def _row(timing: Timing, overhead: Overhead) -> tuple[str, ...]:
    low, high = (_percent(end) for end in overhead.interval)
    return (
        overhead.method,
        timing.backbone,
        timing.work,
        str(timing.batch_size),
        overhead.way,
        timing.precision,
        timing.device,
        f"{_percent(overhead.median):+.1f}",
        f"{low:+.1f} to {high:+.1f}",
        overhead.refusal or "",
    )


def _percent(ratio: float) -> float:
    return 100 * (ratio - 1)
