"""Figures as tables for people, no wider than 80 characters. Figures are medians, brackets hold the quartiles."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rich import box
from rich.table import Table

from mixfast_bench.predicted import PredictedStep
from mixfast_bench.spread import Ratio, Spread
from mixfast_bench.summary import DataRow, KernelRow, StepSummary


def step_time_table(summary: StepSummary, title: str) -> Table:
    """Milliseconds: one row a contender, its phases and the whole step."""
    phases = list(summary.rows[0].phases)
    table = _table(title, *(phase.replace("+ ", "+\n") + "\nms" for phase in phases), "all\nms")
    _wrap_names(table, 20)
    for row in summary.rows:
        table.add_row(row.name, *(_milliseconds(row.phases[phase].median) for phase in phases), _quartiles(row.step))
    return table


def step_rate_table(summary: StepSummary) -> Table:
    """One row a contender: what its time comes to, and its memory."""
    table = _table("", "samples/s", "utilisation", "peak memory\nMiB")
    _wrap_names(table, 30)
    for row in summary.rows:
        memory = "not known" if row.peak_memory is None else f"{row.peak_memory / 2**20:,.0f}"
        table.add_row(row.name, f"{row.samples_per_second:,.0f}", _percent(row.utilisation), memory)
    return table


def data_table(rows: list[DataRow], prefix: str, title: str) -> Table:
    """One row a pipeline whose name begins with ``prefix``."""
    table = _table(title, "batch\nms", "samples\n(pairs)/s", "of copy\nrate")
    _wrap_names(table, 32)
    for row in rows:
        if row.name.startswith(prefix):
            name = row.name.removeprefix(prefix)
            table.add_row(name, _quartiles(row.batch), f"{row.samples_per_second:,.0f}", _percent(row.copy_share))
    return table


def kernel_table(rows: list[KernelRow], operator: str) -> Table:
    """One operator: for each case its forward pass and both passes, and a line for each named opponent."""
    table = _table(operator, "ms", "eager", "compiled", "of floor")
    _wrap_names(table, 28)
    name = ""
    for row in (row for row in rows if row.operator == operator):
        if row.name != name:
            name = row.name
            table.add_row(name)
        compiled = "" if row.compiled is None else _times(row.compiled)
        table.add_row(f"  {row.direction}", _quartiles(row.seconds), _times(row.eager), compiled, _percent(row.floor))
        for rival, ratio in row.rivals.items():
            table.add_row(f"  ({rival}: {_times(ratio)})")
    return table


def predicted_table(summary: StepSummary, predicted: Mapping[str, PredictedStep]) -> Table:
    """What was measured beside what the card's published peaks predict: ~ marks what is predicted."""
    card = next(iter(predicted.values())).card
    table = _table(f"beside {card}'s published peaks", "measured\nms", "products only\nms", "every operator\nms")
    _wrap_names(table, 30)
    for row in summary.rows:
        if row.name in predicted:
            step = predicted[row.name]
            bounds = (f"~{_milliseconds(seconds)}" for seconds in (step.fused, step.eager))
            table.add_row(row.name, _milliseconds(row.step.median), *bounds)
    return table


def ratio_table(ratios: Mapping[str, Ratio], rates: Mapping[str, str]) -> Table:
    """The ratios or why there are none, and the machine's rates that were measured among the contenders."""
    table = _table("", "median [quartiles]")
    for name, ratio in ratios.items():
        table.add_row(name, ratio_text(ratio))
    table.add_section()
    for name, rate in rates.items():
        table.add_row(name, rate)
    return table


def ratio_text(ratio: Ratio) -> str:
    """``"1.021 [1.010, 1.034]"``, or why that cannot be told."""
    if ratio.refusal is not None:
        return f"{ratio.refusal} ({ratio.detail})"
    return _spread(ratio.value, lambda value: f"{value:.3f}")


def rate_text(rate: Spread, unit: str) -> str:
    """A rate in thousands of millions: ``"174.1 [170.3, 177.0] GFLOP/s"`` for the unit ``FLOP/s``."""
    return f"{_spread(rate, lambda value: f'{value / 1e9:.1f}')} G{unit}"


def _quartiles(seconds: Spread) -> str:
    return _spread(seconds, _milliseconds)


def _spread(spread: Spread, number: Callable[[float], str]) -> str:
    return f"{number(spread.median)} [{number(spread.lower_quartile)}, {number(spread.upper_quartile)}]"


def _milliseconds(seconds: float) -> str:
    """Three digits or more."""
    value = 1000 * seconds
    return f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


def _times(ratio: Ratio) -> str:
    return f"{ratio.value.median:.2f}x" if ratio.refusal is None else ratio.refusal


def _percent(share: Ratio) -> str:
    return f"{100 * share.value.median:.0f}%" if share.refusal is None else share.refusal


def _wrap_names(table: Table, width: int) -> None:
    """Long names take a second line, rather than room from the figures."""
    table.columns[0].no_wrap = False
    table.columns[0].max_width = width


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title or None, title_justify="left", title_style="", box=box.SIMPLE)
    table.add_column("", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table
