"""Training curves: loss and accuracy by epoch, all runs over one another."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.ticker import MaxNLocator

from mixfast.report.inputs import Inputs
from mixfast.report.plot import Plot, Table, digits, handles_of, legend_below, new_figure, numbered, styles
from mixfast.report.runs import Group, Run

HEADINGS = ("run", "epochs", "last loss", "best top-1 %", "at epoch", "on")


def draw_training_curves(inputs: Inputs) -> list[Plot]:
    """Needs runs with metrics by epoch; two plots a data set."""
    return numbered(plot for data, groups in inputs.groups.items() for plot in _plots(data, groups))


def _plots(data: str, groups: Sequence[Group]) -> list[Plot]:
    groups = [group for group in groups if any(run.metrics for run in group.runs)]
    if not groups:
        return []
    table = Table(HEADINGS, tuple(_row(run) for group in groups for run in group.runs if run.metrics))
    lines = "A line is a run; runs that differ in their seed share a colour."
    splits = dict.fromkeys(run.metrics[-1]["split"] for group in groups for run in group.runs if run.metrics)
    return [
        _curve(
            groups, "loss", 1.0, "training loss (nats, summed over heads)", "curves-loss", f"Training loss, {data}",
            f"{lines} Losses of methods with other numbers of heads or mixed labels are not to be compared.", table,
        ),
        _curve(
            groups, "top1", 100.0, f"top-1 accuracy on {', '.join(splits)} (%)", "curves-accuracy", f"Accuracy by epoch, {data}",
            f"{lines} Accuracy of the ensemble on the split that is evaluated while training.", table,
        ),
    ]  # fmt: skip


def _curve(
    groups: Sequence[Group], key: str, factor: float, label: str, name: str, title: str, caption: str, table: Table
) -> Plot:
    figure, (axes,) = new_figure(3.6)
    for group, style in zip(groups, styles(group.label for group in groups).values(), strict=True):
        for run in group.runs:
            epochs = [record["epoch"] for record in run.metrics]
            values = [factor * record[key] for record in run.metrics]
            every = max(1, len(epochs) // 10)
            axes.plot(
                epochs, values, color=style.color, marker=style.marker, markevery=every, markersize=5, linewidth=1.4,
                alpha=0.8, label=group.label,
            )  # fmt: skip
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(x=0.04)
    axes.set(xlabel="epoch", ylabel=label)
    legend_below(figure, handles_of([axes]))
    return Plot(name, title, caption, figure, table)


def _row(run: Run) -> tuple[str, ...]:
    best = max(run.metrics, key=lambda record: record["top1"])
    last = run.metrics[-1]
    return (
        run.name,
        str(last["epoch"]),
        digits(last["loss"]),
        f"{100 * best['top1']:.2f}",
        str(best["epoch"]),
        last["split"],
    )
