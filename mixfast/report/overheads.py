"""Overheads: how much longer a method takes than the plain network, by method and backbone."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.patches import Patch

from mixfast.report.inputs import Inputs
from mixfast.report.measured import Overhead, Timing
from mixfast.report.names import short_labels, wrapped
from mixfast.report.plot import REFERENCE, Plot, Table, legend_below, new_figure, styles

HEADINGS = ("method", "backbone", "mode", "batch", "overhead %", "95% interval %", "refused", "precision", "on")
LONGEST_LABEL = 30
CAPTION = (
    "Median over the rounds of a method's time over the plain network's of the same round, less 1; whiskers: the 95% confidence "
    "interval of that median, or its quartiles where the rounds are too few for one. A hatched ratio was refused by the bench: it "
    "is not known well enough to be quoted, and its whiskers may leave the plot."
)


def draw_overheads(inputs: Inputs) -> list[Plot]:
    """Needs records of steps or inference with a plain network in them; a plot for each of the two."""
    found: dict[str, list[tuple[Timing, Overhead]]] = {}
    for timing in inputs.timings:
        for overhead in timing.overheads:
            found.setdefault(timing.work, []).append((timing, overhead))
    return [_plot(work, pairs) for work, pairs in found.items()]


def _plot(work: str, found: Sequence[tuple[Timing, Overhead]]) -> Plot:
    labels = [
        wrapped(label, LONGEST_LABEL) for label in short_labels([_description(*each) for each in found], always=2)
    ]
    looks = styles(overhead.method for _, overhead in found)
    figure, (axes,) = new_figure(0.8 + 0.42 * len(found))
    for place, (_, overhead) in enumerate(found):
        _draw_bar(axes, place, overhead, looks[overhead.method].color)
    axes.axvline(0, color="black", linewidth=1)
    axes.set_yticks(range(len(found)), labels)
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    _limit(axes, [overhead for _, overhead in found])
    axes.set_xlabel(f"{work}: longer than the plain network (%)")
    handles = {method: Patch(color=look.color) for method, look in looks.items()}
    if any(overhead.refusal for _, overhead in found):
        handles["refused: not known well"] = Patch(facecolor="white", edgecolor=REFERENCE, hatch="////")
    legend_below(figure, handles)
    table = Table(HEADINGS, tuple(_row(*each) for each in found))
    return Plot(
        f"overheads-{work.replace(' ', '-')}", f"Overhead over the plain network, {work}", CAPTION, figure, table
    )


def _draw_bar(axes: Axes, place: int, overhead: Overhead, colour: str) -> None:
    look = {"facecolor": "white", "edgecolor": colour, "hatch": "////"} if overhead.refusal else {"color": colour}
    axes.barh(place, _percent(overhead.median), 0.62, **look)
    ends = [_percent(end) for end in overhead.interval]
    axes.plot(ends, [place, place], color="black", linewidth=1.4, marker="|", markersize=8)


def _limit(axes: Axes, overheads: Sequence[Overhead]) -> None:
    """What is known decides what is seen: all bars, and the whiskers of those that were not refused."""
    seen = [0.0, *(_percent(overhead.median) for overhead in overheads)]
    seen += [_percent(end) for overhead in overheads if not overhead.refusal for end in overhead.interval]
    low, high = min(seen), max(seen)
    margin = 0.08 * (high - low) or 1.0
    axes.set_xlim(low - margin, high + margin)


def _description(timing: Timing, overhead: Overhead) -> tuple[str, ...]:
    """What tells overheads apart, the most telling first."""
    batch = f"batch {timing.batch_size}"
    return (
        overhead.method,
        timing.backbone,
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
        overhead.way,
        str(timing.batch_size),
        f"{_percent(overhead.median):+.1f}",
        f"{low:+.1f} to {high:+.1f}",
        overhead.refusal or "",
        timing.precision,
        timing.device,
    )


def _percent(ratio: float) -> float:
    return 100 * (ratio - 1)
