"""The final figures of a run, as ``summary.json`` holds them and as a table for people."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.table import Table

from mixfast.config import Config
from mixfast.evaluation import Metrics


def summary_of(
    metrics: Metrics, *, params: int, images_per_second: float, epochs: int, seconds: float
) -> dict[str, Any]:
    """The keys of ``summary.json``: accuracies, ECE and the like as fractions, on the test split.

    ``calibration`` holds the bins behind ``ece``.
    ``images_per_second`` counts training samples (rows of a batch); ``seconds`` is the wall-clock of training and its
    evaluations; a deep ensemble adds up its members' parameters, epochs and seconds.
    """
    values = metrics.to_dict()
    figures = {key: values[key] for key in ("top1", "top5", "nll", "nll_calibrated", "ece", "diversity", "members")}
    costs = {"params": params, "images_per_second": images_per_second, "epochs": epochs, "seconds": seconds}
    return {**figures, **costs, "calibration": values["calibration"]}


def summary_table(config: Config, summary: dict[str, Any], compared: dict[str, dict[str, Any]], split: str) -> Table:
    """The ensemble, each subnetwork, and the networks trained beside it, by their titles."""
    table = Table(title=f"{config.about.title} ({split} split)", box=box.SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    for heading in ("top-1 %", "NLL", "NLLc", "ECE %", "d_re", "params", "samples/s"):
        table.add_column(heading, justify="right", no_wrap=True)
    members = summary["members"]
    table.add_row("ensemble" if len(members) > 1 else "network", *_cells(summary))
    for number, top1 in enumerate(members if len(members) > 1 else [], 1):
        table.add_row(f"  subnetwork {number}", f"{100 * top1:.2f}")
    for title, figures in compared.items():
        table.add_row(title, *_cells(figures), style="dim")
    return table


def _cells(summary: dict[str, Any]) -> list[str]:
    def number(key: str, form: str, factor: float = 1.0) -> str:
        value = summary[key]
        return "-" if value is None else format(factor * value, form)

    return [
        number("top1", ".2f", 100),
        number("nll", ".3f"),
        number("nll_calibrated", ".3f"),
        number("ece", ".2f", 100),
        number("diversity", ".3f"),
        f"{summary['params'] / 1e6:.2f} M",
        number("images_per_second", ",.0f"),
    ]
