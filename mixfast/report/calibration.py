"""Reliability diagrams: accuracy against confidence, in the bins of the expected calibration error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mixfast.evaluation import ReliabilityBin, calibration_error
from mixfast.report.inputs import Inputs
from mixfast.report.plot import REFERENCE, Plot, Table, handles_of, legend_below, new_figure, numbered, styles
from mixfast.report.runs import Group, Run

LEAST_MARK, LARGEST_MARK = 12, 120  # areas, in square points
HEADINGS = ("runs", "ECE %", "mean confidence %", "top-1 %", "predictions")


@dataclass(frozen=True)
class Pooled:
    """The predictions of a group's runs together."""

    label: str
    bins: list[ReliabilityBin]

    @property
    def count(self) -> int:
        return sum(entry.count for entry in self.bins)

    def mean(self, figure: str) -> float:
        """Of all predictions: their ``confidence`` or ``accuracy``."""
        return sum(entry.count * (getattr(entry, figure) or 0.0) for entry in self.bins) / self.count


def draw_calibration(inputs: Inputs) -> list[Plot]:
    """Needs runs whose summary has the bins; a plot a data set."""
    return numbered(plot for data, groups in inputs.groups.items() if (plot := _plot(data, groups)) is not None)


def _plot(data: str, groups: Sequence[Group]) -> Plot | None:
    pooled = [found for group in groups if (found := _pooled(group)) is not None]
    if not pooled:
        return None
    figure, (reliability, histogram) = new_figure(5.4, 2, sharex=True, height_ratios=(3, 1))
    reliability.plot([0, 100], [0, 100], "--", color=REFERENCE, linewidth=1, label="perfectly calibrated")
    for each, style in zip(pooled, styles(each.label for each in pooled).values(), strict=True):
        filled = [entry for entry in each.bins if entry.count]
        confidences = [100 * entry.confidence for entry in filled]
        accuracies = [100 * entry.accuracy for entry in filled]
        areas = [LEAST_MARK + LARGEST_MARK * entry.count / each.count for entry in filled]
        reliability.plot(confidences, accuracies, color=style.color, linewidth=1, alpha=0.5)
        reliability.scatter(
            confidences,
            accuracies,
            s=areas,
            color=style.color,
            marker=style.marker,
            clip_on=False,
            label=each.label,
            zorder=3,
        )
        edges = [100 * entry.lower for entry in each.bins] + [100 * each.bins[-1].upper]
        shares = [100 * entry.count / each.count for entry in each.bins]
        histogram.stairs(shares, edges, color=style.color, linewidth=1.4)
    # Room for the marks of those who are always sure and right.
    reliability.set(xlim=(0, 103), ylim=(0, 105), ylabel="accuracy in the bin (%)")
    histogram.set(xlabel="confidence (%)", ylabel="predictions (%)", ylim=(0, None))
    legend_below(figure, handles_of([reliability]))
    caption = (
        "Predictions on the test split, uncalibrated, in bins of confidence; the larger a mark, the more of them are in its bin. "
        "Below the diagonal a network is more confident than it is right. Under it, the share of predictions in each bin. Runs "
        "that differ in their seed are pooled."
    )
    rows = tuple(
        (
            each.label,
            f"{100 * calibration_error(each.bins):.2f}",
            f"{100 * each.mean('confidence'):.2f}",
            f"{100 * each.mean('accuracy'):.2f}",
            f"{each.count:,}",
        )
        for each in pooled
    )
    return Plot("calibration", f"Calibration, {data}", caption, figure, Table(HEADINGS, rows))


def _pooled(group: Group) -> Pooled | None:
    """The bins of all runs that have them, added up; None where none has."""
    tables = [bins for run in group.runs if (bins := _bins_of(run))]
    if not tables:
        return None
    return Pooled(group.label, [_added(entries) for entries in zip(*tables, strict=True)])


def _bins_of(run: Run) -> list[ReliabilityBin]:
    return [ReliabilityBin(**entry) for entry in run.summary.get("calibration", ())]


def _added(entries: tuple[ReliabilityBin, ...]) -> ReliabilityBin:
    count = sum(entry.count for entry in entries)

    def mean(figure: str) -> float | None:
        values = [(entry.count, getattr(entry, figure)) for entry in entries if entry.count]
        return sum(weight * value for weight, value in values) / count if count else None

    return ReliabilityBin(entries[0].lower, entries[0].upper, count, mean("confidence"), mean("accuracy"))
