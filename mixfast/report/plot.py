"""A plot with its numbers, and what all plots have in common: paper, palette, markers, axes."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, NullFormatter, NullLocator

from mixfast.palette import COLOURS
from mixfast.report.names import wrapped

WIDTH = 5.4  # inches: a page's column, and no more than a phone shows with letters that can be read
LETTERS, LETTERS_OF_A_MARK = 78, 8  # of a line of the legend, which has marks between its labels
LEGEND_LINE = 0.19  # inches
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "h")
PLAIN = "{x:,.10g}"  # ticks as people write numbers
REFERENCE = "#555555"  # of what is no series: roofs, diagonals
PAPER = {
    "font.size": 10,
    "axes.labelsize": 10,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.8,
    # Letters as outlines, the same in every browser; the same file for the same plot.
    "svg.fonttype": "path",
    "svg.hashsalt": "mixfast",
}


@dataclass(frozen=True)
class Style:
    """How one series is drawn: of the first 66 no two look alike, and the first six differ in both."""

    color: str
    marker: str


@dataclass(frozen=True)
class Table:
    """Rows of text and numbers, all written out."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Plot:
    """One picture of the page. name: of its file, without a suffix; caption: what is shown and how to read it."""

    name: str
    title: str
    caption: str
    figure: Figure
    table: Table

    def svg(self) -> bytes:
        return self._saved("svg", metadata={"Date": None})

    def png(self, software: str) -> bytes:
        """For papers; ``software``: who made it, in the file."""
        return self._saved("png", dpi=200, metadata={"Software": software})

    def _saved(self, form: str, **options: object) -> bytes:
        file = io.BytesIO()
        with on_paper():
            self.figure.savefig(file, format=form, **options)
        return file.getvalue()


def numbered(plots: Iterable[Plot]) -> list[Plot]:
    """Plots of which several may have one name: the second gets a 2, and so on."""
    seen: Counter[str] = Counter()
    result = []
    for plot in plots:
        seen[plot.name] += 1
        again = f"-{seen[plot.name]}" if seen[plot.name] > 1 else ""
        result.append(replace(plot, name=plot.name + again))
    return result


def on_paper() -> AbstractContextManager[None]:
    """While entered, matplotlib draws as all plots look."""
    return matplotlib.rc_context(PAPER)


def new_figure(height: float, panels: int = 1, **options: object) -> tuple[Figure, list[Axes]]:
    """A figure of panels below one another, ``height`` inches without its legend; ``options`` of ``Figure.subplots``."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(panels, 1, squeeze=False, **options)[:, 0])


def styles(names: Iterable[str]) -> dict[str, Style]:
    """A style for each name, in their order."""
    return {
        name: Style(COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)])
        for number, name in enumerate(dict.fromkeys(names))
    }


def handles_of(panels: Sequence[Axes]) -> dict[str, Any]:
    """What the panels show, each once, by label."""
    found: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    return found


def legend_below(figure: Figure, handles: Mapping[str, Any]) -> None:
    """The legend, under everything, where it covers nothing; the figure grows by its rows."""
    labels = [wrapped(label, LETTERS - LETTERS_OF_A_MARK) for label in handles]
    columns = next(columns for columns in (3, 2, 1) if columns == 1 or _width(labels, columns) <= LETTERS)
    lines = sum(label.count("\n") + 1 for label in labels)
    figure.set_figheight(figure.get_figheight() + LEGEND_LINE * (1 + -(-lines // columns)))
    figure.legend(handles.values(), labels, loc="outside lower left", ncols=columns)


def _width(labels: Sequence[str], columns: int) -> int:
    """Letters of a legend's line: every column is as wide as its longest label."""
    return sum(LETTERS_OF_A_MARK + max(map(len, column), default=0) for column in np.array_split(labels, columns))


def log_scale(axes: Axes, which: str) -> None:
    """A logarithmic ``x`` or ``y`` axis whose ticks are plain numbers; the data are drawn already."""
    getattr(axes, f"set_{which}scale")("log")
    low, high = getattr(axes, f"get_{which}lim")()
    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 300 * low else (1.0,)))
    axis.set_major_formatter(PLAIN)
    axis.set_minor_formatter(NullFormatter())


def ticks_at(axes: Axes, which: str, values: Sequence[float]) -> None:
    """Ticks at these values of the ``x`` or ``y`` axis and nowhere else, as plain numbers."""
    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(FixedLocator(sorted(set(values))))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(PLAIN)


def scale_of(values: Iterable[float]) -> tuple[float, str]:
    """What to divide these by so that the largest has one to three digits before its point, and how that is written."""
    largest = max(values)
    for factor, power in ((1e12, "10¹²"), (1e9, "10⁹"), (1e6, "10⁶"), (1e3, "10³")):
        if largest >= factor:
            return factor, power
    return 1.0, "1"


def digits(value: float) -> str:
    """Three digits or more, thousands apart."""
    size = abs(value)
    return f"{value:,.{0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3}f}"
