"""Accuracy against cost: each run's top-1 over the multiply-adds of an image's predictions."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean

from matplotlib.axes import Axes

from mixfast.flops.costing import Costed
from mixfast.report.inputs import Inputs
from mixfast.report.plot import (
    Plot,
    Table,
    digits,
    handles_of,
    legend_below,
    log_scale,
    new_figure,
    numbered,
    scale_of,
    styles,
)
from mixfast.report.runs import Group

HEADINGS = ("run", "of", "top-1 %", "NLL", "ECE %", "parameters", "multiply-adds, 10⁶")


def draw_accuracy_cost(inputs: Inputs) -> list[Plot]:
    """Needs runs whose networks can be counted; a plot a data set."""
    return numbered(plot for data, groups in inputs.groups.items() if (plot := _plot(data, groups)) is not None)


def _plot(data: str, groups: Sequence[Group]) -> Plot | None:
    counted = [group for group in groups if isinstance(group.cost, Costed)]
    if not counted:
        return None
    products = {group.label: group.cost.members * group.cost.cost.inference.total for group in counted}
    factor, power = scale_of(products.values())
    figure, (axes,) = new_figure(3.8)
    for group, style in zip(counted, styles(products).values(), strict=True):
        accuracies = [100 * run.summary["top1"] for run in group.runs]
        cost = products[group.label] / factor
        axes.plot(
            [cost] * len(accuracies),
            accuracies,
            style.marker,
            color=style.color,
            markersize=7,
            alpha=0.75,
            label=group.label,
        )
        if len(accuracies) > 1:
            axes.plot(cost, mean(accuracies), "_", color=style.color, markersize=22, markeredgewidth=2)
    axes.margins(0.12)
    axes.ticklabel_format(useOffset=False)
    if max(products.values()) > 8 * min(products.values()):
        log_scale(axes, "x")
    else:
        _widen(axes)
    axes.set(xlabel=f"multiply-adds of an image's predictions ({power})", ylabel="top-1 accuracy on test (%)")
    legend_below(figure, handles_of([axes]))
    caption = (
        "Each mark is a run, a dash the mean of runs that differ in their seed. Cost is counted as mixfast flops does: products "
        "of one image's predictions by all subnetworks."
    )
    return Plot("accuracy-cost", f"Accuracy against cost, {data}", caption, figure, _table(counted, products))


def _widen(axes: Axes) -> None:
    """Costs that are nearly the same shall look so: the axis shows a fifth of them at least."""
    low, high = axes.get_xlim()
    middle, half = (low + high) / 2, max(high - low, 0.2 * high) / 2
    axes.set_xlim(middle - half, middle + half)


def _table(groups: Sequence[Group], products: dict[str, int]) -> Table:
    rows = [
        (
            run.name,
            group.label,
            f"{100 * run.summary['top1']:.2f}",
            f"{run.summary['nll']:.3f}",
            f"{100 * run.summary['ece']:.2f}",
            f"{run.summary['params']:,}",
            digits(products[group.label] / 1e6),
        )
        for group in groups
        for run in group.runs
    ]
    return Table(HEADINGS, tuple(rows))
