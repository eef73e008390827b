"""``mixfast eval``."""

from __future__ import annotations

import argparse
import json

from rich.console import Console
from rich.table import Table

from mixfast.allocator import keep_freed_memory
from mixfast.files import write_text
from mixfast.training.assessment import Assessment, assess

HELP = "evaluate one run, or several together as a deep ensemble"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run directories; several are evaluated as one ensemble")
    parser.add_argument("--data", metavar="DIR", help="the folder the data sets lie in (default: the run's own)")
    parser.add_argument("--data-name", metavar="NAME", help="another data set with the same classes, as cifar100-c")
    parser.add_argument("--split", default="test", help="which split (default: %(default)s)")
    parser.add_argument("--average", choices=("logits", "probabilities"), help="how subnetworks are averaged")
    parser.add_argument(
        "--inference",
        choices=("sum", "separate", "alternating", "single"),
        help="how a transformer predicts for all subnetworks (tables 4.1 and 4.6; default: the run's own)",
    )
    parser.add_argument(
        "--analysis", action="store_true", help="also active filters and feature sharing (A.5.4, 3.4.1)"
    )
    parser.add_argument("--json", metavar="FILE", help="also write the figures to FILE")


def run(args: argparse.Namespace, console: Console) -> int:
    keep_freed_memory()
    result = assess(
        args.runs,
        data_dir=args.data,
        data_name=args.data_name,
        split=args.split,
        average=args.average,
        inference=args.inference,
        analysis=args.analysis,
    )
    for table in _tables(result):
        console.print(table)
    if args.json is not None:
        write_text(args.json, json.dumps(result.to_dict(), indent=2) + "\n")
    return 0


def _tables(result: Assessment) -> list[Table]:
    title = f"{result.data}, {result.split} split, {result.samples:,} images, averaging {result.average}"
    # The bins behind ECE are for plots: the record has them.
    tables = [_table(title, {name: value for name, value in result.metrics.items() if name != "calibration"})]
    tables += [_table(f"analysis of {run}", figures) for run, figures in result.analysis.items()]
    return tables


def _table(title: str, figures: dict[str, object]) -> Table:
    table = Table(title=title)
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name, value in figures.items():
        table.add_row(name, _shown(value))
    return table


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    return "-" if value is None else str(value)
