"""Scaling: what a method costs as one of M, width and batch changes and nothing else does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from matplotlib.axes import Axes

from mixfast.models import split_width
from mixfast.report.counted import Counted
from mixfast.report.inputs import Inputs
from mixfast.report.measured import Timing
from mixfast.report.names import short_labels
from mixfast.report.plot import (
    PLAIN,
    Plot,
    Style,
    Table,
    digits,
    handles_of,
    legend_below,
    log_scale,
    new_figure,
    styles,
    ticks_at,
)


@dataclass(frozen=True)
class Axis:
    """What is changed. field: of a point."""

    field: str
    title: str
    label: str


@dataclass(frozen=True)
class Measure:
    """What is plotted, and which of the axes' fields it depends on."""

    label: str
    fields: tuple[str, ...]


@dataclass(frozen=True)
class Point:
    """One cost: its measure and value, and all that it depends on; backbone: but for its width; others: for people."""

    measure: Measure
    value: float
    method: str
    backbone: str
    width: int
    num_inputs: int
    batch_size: int
    others: tuple[str, ...]


AXES = (
    Axis("num_inputs", "Scaling with M", "inputs of the network, M"),
    Axis("width", "Scaling with the width", "width (× the standard one; of transformers: values a token)"),
    Axis("batch_size", "Scaling with the batch", "batch size"),
)
INFERENCE = Measure("inference\n(10⁶ multiply-adds)", ("num_inputs", "width"))
STEP = Measure("training step\n(10⁶ multiply-adds)", ("num_inputs", "width"))
KEPT = Measure("activations kept\n(MiB a batch)", ("num_inputs", "width", "batch_size"))
STEP_TIME = Measure("training step\n(ms)", ("num_inputs", "width", "batch_size"))
PASS_TIME = Measure("inference pass\n(ms)", ("num_inputs", "width", "batch_size"))
MEASURES = (INFERENCE, STEP, KEPT, STEP_TIME, PASS_TIME)


def draw_scaling(inputs: Inputs) -> list[Plot]:
    """Needs costs that differ in exactly one of M, width and batch."""
    points = [
        *(point for counted in inputs.counted for point in _points_of_counts(counted)),
        *(point for timing in inputs.timings for point in _points_of_timing(timing)),
    ]
    return [plot for axis in AXES if (plot := _plot(axis, points)) is not None]


def _plot(axis: Axis, points: Sequence[Point]) -> Plot | None:
    series = _series(axis, points)
    if not series:
        return None
    looks = styles(label for lines in series.values() for label in lines)
    figure, panels = new_figure(0.6 + 1.9 * len(series), len(series), sharex=True)
    rows = []
    for (measure, lines), axes in zip(series.items(), panels, strict=True):
        for label, values in lines.items():
            rows += _draw(axes, axis, values, label, looks[label])
        axes.set_ylabel(measure.label)
        _scale(axes, [point.value for values in lines.values() for point in values])
    places = [getattr(point, axis.field) for lines in series.values() for values in lines.values() for point in values]
    if max(places) > 4 * min(places):
        log_scale(panels[-1], "x")
    ticks_at(panels[-1], "x", places)
    panels[-1].set_xlabel(axis.label)
    legend_below(figure, handles_of(panels))
    caption = (
        "A line joins costs that differ in nothing else. Multiply-adds (of an image's predictions; of a training step for one "
        "sample) and activations are counted; times, where there are any, are medians of what was measured."
    )
    name = f"scaling-{axis.field.replace('_', '-')}"
    return Plot(
        name, axis.title, caption, figure, Table(("of", "cost", axis.label.partition(" (")[0], "value"), tuple(rows))
    )


def _draw(axes: Axes, axis: Axis, values: Sequence[Point], label: str, style: Style) -> Iterator[tuple[str, ...]]:
    """One line, and its rows of the table. What was measured several times counts with its median."""
    by_place: dict[int, list[float]] = {}
    for point in values:
        by_place.setdefault(getattr(point, axis.field), []).append(point.value)
    costs = {place: median(found) for place, found in sorted(by_place.items())}
    axes.plot(list(costs), list(costs.values()), color=style.color, marker=style.marker, alpha=0.85, label=label)
    unit = values[0].measure.label.replace("\n", " ")
    return ((label, unit, f"{place}", digits(cost)) for place, cost in costs.items())


def _scale(axes: Axes, values: Sequence[float]) -> None:
    if max(values) > 20 * min(values):
        log_scale(axes, "y")
    else:
        axes.set_ylim(0, 1.1 * max(values))
        axes.yaxis.set_major_formatter(PLAIN)


def _series(axis: Axis, points: Sequence[Point]) -> dict[Measure, dict[str, list[Point]]]:
    """The lines of each measure that has some, by label."""
    series = {}
    for measure in MEASURES:
        lines = _lines(axis, [point for point in points if point.measure == measure])
        if lines:
            labels = short_labels([_description(axis, values[0]) for values in lines], always=2)
            series[measure] = dict(zip(labels, lines, strict=True))
    return series


def _lines(axis: Axis, points: Sequence[Point]) -> list[list[Point]]:
    """Points of one measure that differ in nothing but the axis and the cost, where there are several places on it."""
    lines: dict[tuple, list[Point]] = {}
    for point in points:
        if axis.field in point.measure.fields:
            fixed = [getattr(point, name) for name in point.measure.fields if name != axis.field]
            lines.setdefault((point.method, point.backbone, *fixed, *point.others), []).append(point)
    return [line for line in lines.values() if len({getattr(point, axis.field) for point in line}) > 1]


def _description(axis: Axis, point: Point) -> tuple[str, ...]:
    """Of a line, for people: all that is the same along it."""
    fixed = {each.field for each in AXES if each is not axis} & set(point.measure.fields)
    backbone = point.backbone.replace("WIDTH", "*" if axis.field == "width" else str(point.width))
    inputs = f"M = {point.num_inputs}" if "num_inputs" in fixed else ""
    batch = f"batch {point.batch_size}" if "batch_size" in fixed else ""
    return point.method, backbone, inputs, batch, *point.others


def _points_of_counts(counted: Counted) -> Iterator[Point]:
    backbone, width = split_width(counted.backbone)
    networks = f"{counted.members} networks" if counted.members > 1 else ""
    others = (counted.images, networks, "", "", "")
    for measure, value in (
        (INFERENCE, counted.inference / 1e6),
        (STEP, counted.step / 1e6),
        (KEPT, counted.activations / 2**20),
    ):
        own = (counted.method, backbone, width, counted.num_inputs, counted.batch_size, others)
        yield Point(measure, value, *own)


def _points_of_timing(timing: Timing) -> Iterator[Point]:
    backbone, width = split_width(timing.backbone)
    measure = STEP_TIME if timing.work == "training step" else PASS_TIME
    for contender in timing.contenders:
        others = (timing.images, "", contender.way, timing.precision, timing.device)
        own = (contender.method, backbone, width, contender.num_inputs, timing.batch_size, others)
        yield Point(measure, 1000 * contender.seconds[0], *own)
